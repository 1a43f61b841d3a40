"""Every learner works under both mechanisms, or is refused before anything is charged."""

from typing import Any

import numpy as np
import pytest

from metaward.errors import ConfigError, PrivacyError
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta.noised import NoisedWork
from metaward.meta.reptile import Reptile
from metaward_client.privacy import release as door
from metaward_client.privacy.ledger import Ledger
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.poisson import block_of
from metaward_client.privacy.release import release
from private_site import THETA, KnownSource, asked, block, dp_sgd, twelve_patients
from release_cases import BOTH, Make, answer, never, state, with_learner

pytestmark = pytest.mark.usefixtures("one_thread", "quick_accountant")


@pytest.mark.parametrize("learner", [
    FedAvgSettings(), ReptileSettings(n_way=2, n_shot=1), FomamlSettings(n_way=2, n_shot=1),
    PrototypicalSettings(),
], ids=lambda s: s.name)  # fmt: skip
@pytest.mark.parametrize("steps", [2, 3])
def test_every_learner_works_under_dp_sgd(
    learner: LearnerSettings, steps: int, opened: Any
) -> None:
    policy = opened(dp_sgd, steps_per_round=steps)
    released = answer(policy, study=with_learner(learner))
    assert {n: leaf.shape for n, leaf in released.update.delta.items()} == {
        n: leaf.shape for n, leaf in THETA.items()
    }
    assert all(leaf.any() for leaf in released.update.delta.values())


def test_a_learner_that_needs_more_sums_is_refused_and_nothing_is_charged(opened: Any) -> None:
    policy = opened(dp_sgd, steps_per_round=1)
    with pytest.raises(ConfigError, match="prototypical with 1 noised sum"):
        release(asked(study=with_learner(PrototypicalSettings())), never, policy, os_noise())
    assert state(policy).releases == []


def test_a_learner_without_a_noised_form_is_refused_and_nothing_is_charged(opened: Any) -> None:
    policy = opened(dp_sgd, steps_per_round=2)
    learner = PrototypicalSettings(loss="margin")
    with pytest.raises(ConfigError, match="loss margin and mechanism dp-sgd"):
        release(asked(study=with_learner(learner)), never, policy, os_noise())
    assert state(policy).releases == []


@pytest.mark.parametrize("learner", [
    PrototypicalSettings(n_way=2, n_shot=1, n_query=1), FedAvgSettings(local_steps=1),
    ReptileSettings(n_way=2, n_shot=1), FomamlSettings(n_way=2, n_shot=1, n_query=1),
], ids=lambda s: s.name)  # fmt: skip
def test_every_learner_works_under_block_release(
    learner: LearnerSettings, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner needs a block with two patients of both labels; a ledger's own key may give none.

    Of six patients of one label, at most one is in block 0 with chance 7/64, and likewise at least
    five. No block has two of both where one label has the one and the other label the other:
    2 (7/64)^2, which is one key in 42. So the key is known here.
    """
    key = bytes(32)
    home = block_of(twelve_patients().patient_tokens, 2, key)
    assert np.bincount(np.arange(12)[home == 0] % 2).tolist() == [5, 2]  # of label a, of label b
    monkeypatch.setattr(Ledger, "derived_key", lambda *_: key)
    policy = opened(block, sample_rate=1.0, blocks=2)
    source = KnownSource()  # no noise, so that only the blocks speak
    released = release(asked(study=with_learner(learner)), twelve_patients, policy, source)
    assert any(leaf.any() for leaf in released.update.delta.values())


def test_patients_are_put_into_blocks_by_a_key_that_only_the_ledger_has(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[bytes] = []
    honest = door.block_release

    def with_key_noted(*given: Any, block_key: bytes, **named: Any) -> Any:
        keys.append(block_key)
        return honest(*given, block_key=block_key, **named)

    monkeypatch.setattr(door, "block_release", with_key_noted)
    policy = opened(block)
    for round_index in range(2):
        answer(policy, round_index)
    with Ledger.open(policy.ledger, policy.witness) as ledger:
        assert keys == 2 * [ledger.derived_key(door.BLOCK_KEY)]


def test_a_study_has_one_head_at_a_site_and_each_round_its_own_choices(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, choices = [], []
    honest = Reptile.noised_delta

    def noted(self: Reptile, body: Any, theta: Any, work: NoisedWork) -> Any:
        heads.append(work.head_seed)
        choices.append(float(work.rng.random()))
        return honest(self, body, theta, work)

    monkeypatch.setattr(Reptile, "noised_delta", noted)
    policy, study = opened(dp_sgd), with_learner(ReptileSettings(n_way=2, n_shot=1))
    for round_index in range(2):
        answer(policy, round_index, study=study)
    assert heads == 2 * [asked().site_seed]
    assert choices[0] != choices[1]


@BOTH
def test_a_network_that_mixes_patients_is_refused_before_the_charge(
    make: Make, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(door, "build_body", lambda *_: torch.nn.BatchNorm2d(2))
    policy = opened(make)
    with pytest.raises(PrivacyError, match="BatchNorm2d; expected no batch statistics"):
        release(asked(), never, policy, os_noise())
    assert state(policy).releases == []


def test_a_layer_without_a_rule_is_refused_before_the_charge(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    honest = door.build_body

    def with_unused_layer(*settings: Any) -> Any:
        body = honest(*settings)
        body.extra = torch.nn.Linear(2, 2)
        return body

    monkeypatch.setattr(door, "build_body", with_unused_layer)
    policy = opened(dp_sgd)
    with pytest.raises(PrivacyError, match="a Linear whose gradient has no rule"):
        release(asked(), never, policy, os_noise())
    assert state(policy).releases == []
