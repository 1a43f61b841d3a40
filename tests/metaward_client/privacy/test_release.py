"""What passes the one door: finite numbers alone, with as much noise as the policy says."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metaward.errors import DataError, PrivacyError
from metaward.learner_settings import FedAvgSettings, PrototypicalSettings, ReptileSettings
from metaward.tasks import Task
from metaward.wire import Update
from metaward_client.privacy import release as door
from metaward_client.privacy.ledger import Ledger
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import NoPrivacy
from metaward_client.privacy.release import release
from private_site import STUDY, KnownSource, asked, block, dp_sgd, twelve_patients
from release_cases import BOTH, Make, answer, content, failing, with_learner

pytestmark = pytest.mark.usefixtures("one_thread", "quick_accountant")


# Without a mechanism


def test_without_a_mechanism_the_delta_leaves_as_it_was_computed() -> None:
    first = release(asked(3), twelve_patients, NoPrivacy(), os_noise())
    again = release(asked(3), twelve_patients, NoPrivacy(), os_noise())
    assert isinstance(first.update, Update)
    assert (first.update.study_digest, first.update.round_index) == (STUDY.digest(), 3)
    assert content(first) == content(again)
    assert not again.replayed
    assert first.loss > 0


def test_without_a_mechanism_no_noise_is_drawn_and_no_ledger_is_looked_for() -> None:
    source = KnownSource(scale=1.0)
    release(asked(), twelve_patients, NoPrivacy(), source)
    assert source.asked == []


def test_without_a_mechanism_too_little_data_is_said_to_be_that() -> None:
    with pytest.raises(DataError):
        release(asked(), failing(DataError("too few")), NoPrivacy(), os_noise())


def test_what_is_not_finite_does_not_leave() -> None:
    wild = with_learner(ReptileSettings(n_way=2, n_shot=2, inner_lr=1e38, inner_steps=9))
    with pytest.raises(PrivacyError, match=r"round 0, array.*nothing was sent"):
        release(asked(study=wild), twelve_patients, NoPrivacy(), os_noise())


@pytest.mark.parametrize("leaf", [
    np.float32([np.nan]), np.float32([0.0, np.inf]), np.float32([-np.inf]), np.float64([1.0]),
    np.int32([1]),
])  # fmt: skip
def test_only_finite_float32_passes_the_door(
    leaf: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_plain_delta", lambda *_: ({"w": leaf}, 0.0))
    with pytest.raises(PrivacyError, match="array w"):
        release(asked(), twelve_patients, NoPrivacy(), os_noise())


# Who is drawn


class Counting(KnownSource):
    """Remembers how many numbers each sample was drawn with."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[int] = []

    def uniforms(self, n: int) -> Any:
        self.counted.append(n)
        return super().uniforms(n)


@BOTH
def test_samples_are_of_all_patients_or_of_all_blocks(make: Make, opened: Any) -> None:
    source = Counting()
    release(asked(), twelve_patients, opened(make), source)
    # dp-sgd: 12 patients, twice in each of two steps; block: four blocks, once
    assert source.counted == ([12] * 4 if make is dp_sgd else [4])


def test_blocks_left_out_are_drawn_as_many_as_the_noise_is_divided_by(opened: Any) -> None:
    policy = opened(block, blocks=None, population=350, target_delta=1e-4)
    source = Counting()
    release(asked(), twelve_patients, policy, source)
    assert source.counted == [7]
    assert policy.terms().divisor == policy.sample_rate * 7


@BOTH
def test_a_site_whose_data_cannot_teach_answers_all_the_same(make: Make, opened: Any) -> None:
    """One patient, one image: what leaves is noise, and no refusal tells that there is no more."""
    from private_site import task_of

    policy = opened(make)
    released = release(asked(), lambda: task_of({"p": [0]}), policy, os_noise())
    assert all(leaf.any() for leaf in released.update.delta.values())


def test_dp_sgd_draws_nobody_from_a_task_on_another_device(opened: Any) -> None:
    def elsewhere() -> Task:
        return replace(twelve_patients(), device=torch.device("meta"))

    with pytest.raises(ValueError, match="holds on a CPU alone"):
        release(asked(), elsewhere, opened(dp_sgd), os_noise())


# A norm that adapts


@BOTH
def test_a_norm_that_adapts_goes_on_where_the_last_round_left_it(make: Make, opened: Any) -> None:
    policy = opened(make, adaptive_clipping=True, max_grad_norm=1e6)
    study = with_learner(FedAvgSettings(local_steps=1))
    norms: list[float] = []
    for round_index in range(3):
        release(asked(round_index, study), twelve_patients, policy, KnownSource())
        with Ledger.open(policy.ledger, policy.witness) as ledger:
            memory = ledger._memory_of(ledger.state.studies[study.digest()])
        assert memory is not None
        norms.append(json.loads(memory)["max_grad_norm"])
    assert 1e6 > norms[0] > norms[1] > norms[2]  # all are below, so it falls
    assert norms[2] / norms[1] == pytest.approx(norms[1] / norms[0], rel=1e-6)


def test_a_round_whose_norm_is_fixed_and_that_asked_no_class_sums_leaves_nothing(
    opened: Any,
) -> None:
    policy = opened(dp_sgd, max_grad_norm=2.5)
    answer(policy, 0)
    with Ledger.open(policy.ledger, policy.witness) as ledger:
        assert ledger._memory_of(ledger.state.studies[STUDY.digest()]) is None
    assert [path.suffix for path in policy.ledger.rglob("*.*") if "." in path.stem] == [".reply"]


# Class sums of earlier rounds


def test_class_sums_are_pooled_over_the_rounds_of_one_study_alone(opened: Any) -> None:
    policy = opened(dp_sgd)
    one, other = with_learner(PrototypicalSettings()), with_learner(PrototypicalSettings(n_shot=2))
    weights = []
    for study, round_index in ((one, 0), (one, 1), (other, 0)):
        answer(policy, round_index, study=study)
        with Ledger.open(policy.ledger, policy.witness) as ledger:
            memory = ledger._memory_of(ledger.state.studies[study.digest()])
        assert memory is not None
        weights.append(json.loads(memory)["class_sums"]["weight"])
    assert weights == [1.0, 1.8, 1.0]


# The size of the noise, end to end


def test_the_noise_on_the_wire_is_as_large_as_the_policy_says(opened: Any) -> None:
    """One FOMAML answer of a site with no patients: sigma C / (q N0), and nothing else."""
    from private_site import task_of

    policy = opened(dp_sgd, steps_per_round=1, noise_multiplier=3.0, max_grad_norm=0.5)
    released = release(asked(), lambda: task_of({}), policy, os_noise())
    values = np.concatenate([leaf.ravel() for leaf in released.update.delta.values()])
    assert values.std() == pytest.approx(3.0 * 0.5 / (0.5 * 100), rel=0.1)
