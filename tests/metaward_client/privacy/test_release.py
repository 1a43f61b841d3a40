"""The one door: charged before the work, noised as often as charged, the same bytes again."""

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaward.config import Settings
from metaward.errors import ConfigError, DataError, PrivacyError
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta.noised import NoisedWork
from metaward.meta.reptile import Reptile
from metaward.privacy_promise import PrivacyPromise
from metaward.tasks import Task
from metaward.wire import Update
from metaward_client.privacy import release as door
from metaward_client.privacy.ledger import BudgetExceeded, Ledger, read_ledger
from metaward_client.privacy.ledger.state import LedgerState
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.poisson import block_of
from metaward_client.privacy.policy import NoPrivacy, ProtectedSettings
from metaward_client.privacy.release import Released, release
from private_site import (
    ROUNDS_THAT_FIT,
    STUDY,
    THETA,
    TOY,
    KnownSource,
    asked,
    block,
    create_ledger,
    dp_sgd,
    twelve_patients,
)

Make = Callable[..., ProtectedSettings]
BOTH = pytest.mark.parametrize("make", [dp_sgd, block])


@pytest.fixture(autouse=True)
def _quick_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaward_client.privacy.ledger.ledger.accountant_of_record", lambda: TOY)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """On small networks two threads only wait for each other."""


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., ProtectedSettings]:
    """Make a policy with a fresh ledger."""

    def make(which: Make, **changes: object) -> ProtectedSettings:
        policy = which(tmp_path, **changes)
        create_ledger(policy)
        return policy

    return make


def state(policy: ProtectedSettings) -> LedgerState:
    return read_ledger(policy.ledger, policy.witness)


def answer(policy: ProtectedSettings, round_index: int = 0, **changes: Any) -> Released:
    return release(asked(round_index, **changes), twelve_patients, policy, os_noise())


def content(released: Released) -> bytes:
    return b"".join(leaf.tobytes() for leaf in released.update.delta.values())


def never() -> Task:
    raise AssertionError("data was read")


def failing(error: BaseException) -> Callable[[], Task]:
    def load() -> Task:
        raise error

    return load


def with_learner(learner: LearnerSettings, **model: Any) -> Any:
    changes: dict[str, Settings] = {"learner": learner}
    if model:
        changes["model"] = STUDY.model.model_copy(update=model)
    return STUDY.model_copy(update=changes)


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


@pytest.mark.parametrize("leaf", [np.float32([np.nan]), np.float64([1.0]), np.int32([1])])
def test_only_finite_float32_passes_the_door(
    leaf: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_plain_delta", lambda *_: ({"w": leaf}, 0.0))
    with pytest.raises(PrivacyError, match="array w"):
        release(asked(), twelve_patients, NoPrivacy(), os_noise())


# Charged before the work


@BOTH
def test_the_charge_is_on_the_disk_before_the_data_is_opened(make: Make, opened: Any) -> None:
    policy = opened(make)
    seen: list[dict[str, Any]] = []

    def load() -> Task:
        lines = (policy.ledger / "ledger.jsonl").read_text().splitlines()
        seen.append(json.loads(lines[-1]))
        return twelve_patients()

    release(asked(), load, policy, os_noise())
    (last,) = seen
    assert "reserve" in json.dumps(last)
    assert state(policy).spent == policy.terms().per_round()


@BOTH
def test_a_crash_while_data_is_opened_leaves_the_charge_and_is_not_charged_again(
    make: Make, opened: Any
) -> None:
    policy = opened(make)
    with pytest.raises(MemoryError):
        release(asked(), failing(MemoryError()), policy, os_noise())
    assert state(policy).spent == policy.terms().per_round()
    assert not answer(policy).replayed
    assert state(policy).spent == policy.terms().per_round()
    assert len(state(policy).releases) == 1


@BOTH
def test_every_round_is_charged_once(make: Make, opened: Any) -> None:
    policy = opened(make)
    for round_index in (0, 1, 1, 0):
        answer(policy, round_index)
    ((step, times),) = policy.terms().per_round().items()
    assert state(policy).spent == {step: 2 * times}


@BOTH
def test_without_room_in_the_budget_no_data_is_opened(make: Make, opened: Any) -> None:
    policy = opened(make)
    for round_index in range(ROUNDS_THAT_FIT):
        answer(policy, round_index)
    before = state(policy).spent
    with pytest.raises(BudgetExceeded):
        release(asked(ROUNDS_THAT_FIT), never, policy, os_noise())
    assert state(policy).spent == before
    assert release(asked(0), never, policy, os_noise()).replayed  # an old round is still answered


@BOTH
def test_a_second_study_spends_from_the_same_budget(make: Make, opened: Any) -> None:
    policy = opened(make)
    for seed in range(ROUNDS_THAT_FIT):
        answer(policy, study=STUDY.model_copy(update={"seed": seed}))
    with pytest.raises(BudgetExceeded):
        release(asked(), never, policy, os_noise())


@BOTH
def test_no_round_above_the_hospitals_bound_is_answered(make: Make, opened: Any) -> None:
    policy = opened(make, rounds=2)
    answer(policy, 1)
    with pytest.raises(PrivacyError, match="the hospital's bound"):
        release(asked(2), never, policy, os_noise())
    assert len(state(policy).releases) == 1


@BOTH
def test_without_a_ledger_nothing_happens(make: Make, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError):
        release(asked(), never, make(tmp_path), os_noise())


@BOTH
def test_terms_do_not_change_within_a_study(make: Make, opened: Any) -> None:
    policy = opened(make)
    answer(policy)
    for change in ({"noise_multiplier": 2.0}, {"sample_rate": 0.25}, {"max_grad_norm": 3.0},
                   {"adaptive_clipping": True}):  # fmt: skip
        with pytest.raises(PrivacyError, match="other privacy terms"):
            release(asked(1), never, policy.model_copy(update=change), os_noise())
    assert len(state(policy).releases) == 1


def test_a_policy_that_allows_more_than_the_ledger_records_releases_nothing(opened: Any) -> None:
    policy = opened(dp_sgd).model_copy(update={"target_epsilon": 30.0})
    with pytest.raises(PrivacyError, match="which the ledger records"):
        release(asked(), never, policy, os_noise())


# The same round again


@BOTH
def test_a_round_asked_again_gets_the_same_bytes_and_no_data_is_opened(
    make: Make, opened: Any
) -> None:
    policy = opened(make)
    first = answer(policy)
    again = release(asked(), never, policy, os_noise())
    assert again.replayed
    assert content(again) == content(first)
    assert again.update.delta.keys() == THETA.keys()
    assert np.isnan(again.loss)


def test_the_promise_is_what_the_ledger_enforces_however_the_policy_changes(opened: Any) -> None:
    policy = opened(dp_sgd)
    promise = PrivacyPromise("dp-sgd", 3.0, 1e-3, "add or remove one patient")
    for _ in range(2):
        assert answer(policy).update.promise == promise
        policy = policy.model_copy(update={"target_epsilon": 0.5})  # less than round 0 has spent
    block_too = block(policy.ledger.parent)
    other = answer(block_too, study=STUDY.model_copy(update={"seed": 6}))
    assert other.update.promise == replace(
        promise, mechanism="block", neighbouring="replace one patient"
    )
    assert answer(policy).update.promise.neighbouring == "replace one patient"  # one block is there


def test_an_answer_sent_again_promises_the_mechanism_that_made_it(opened: Any) -> None:
    policy = opened(dp_sgd)
    first = answer(policy)
    again = release(asked(), never, block(policy.ledger.parent), os_noise())
    assert again.replayed
    assert again.update.promise == first.update.promise


def test_without_a_mechanism_nothing_is_promised() -> None:
    released = release(asked(0), twelve_patients, NoPrivacy(), os_noise())
    assert released.update.promise == PrivacyPromise("none")


@BOTH
def test_asking_with_another_theta_gets_the_same_bytes(make: Make, opened: Any) -> None:
    """A coordinator that changes the question does not get a second draw of noise."""
    policy = opened(make)
    first = answer(policy)
    other = {name: leaf + np.float32(1.0) for name, leaf in THETA.items()}
    again = release(replace(asked(), theta=other), never, policy, os_noise())
    assert content(again) == content(first)


@BOTH
def test_another_round_gets_other_noise(make: Make, opened: Any) -> None:
    policy = opened(make)
    assert content(answer(policy, 0)) != content(answer(policy, 1))


def test_two_who_ask_at_once_get_one_answer(opened: Any) -> None:
    policy = opened(dp_sgd)
    answers: list[Released] = []
    threads = [threading.Thread(target=lambda: answers.append(answer(policy))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.replayed for one in answers) == [False, True]
    assert content(answers[0]) == content(answers[1])
    assert len(state(policy).releases) == 1


# A round that fails after its noise was drawn


WILD = with_learner(ReptileSettings(n_way=2, n_shot=1, inner_lr=1e300))
"""A coordinator's step size with which noised answers overflow: whether they do tells of them."""


def test_a_round_that_fails_after_its_noise_is_closed_for_good(opened: Any) -> None:
    policy = opened(dp_sgd)
    with pytest.raises(PrivacyError, match="not finite"):
        answer(policy, study=WILD)
    charged = state(policy).spent
    for _ in range(2):
        with pytest.raises(PrivacyError, match="closed without an answer"):
            release(asked(study=WILD), never, policy, os_noise())
    assert state(policy).spent == charged == policy.terms().per_round()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_answers_are_counted_against_the_charge(
    steps: int, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner that takes fewer or more answers than were charged releases nothing."""
    honest = Reptile.noised_delta

    def other(self: Reptile, body: Any, theta: Any, work: NoisedWork) -> Any:
        return honest(self, body, theta, replace(work, steps=steps))

    monkeypatch.setattr(Reptile, "noised_delta", other)
    policy = opened(dp_sgd)
    study = with_learner(ReptileSettings(n_way=2, n_shot=1))
    with pytest.raises(PrivacyError, match="which is what the ledger has charged"):
        answer(policy, study=study)
    assert [release.commit for release in state(policy).releases] != [None]  # closed


def test_an_error_once_the_data_is_there_closes_the_round_before_any_noise(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again it would draw another sample, whose refusal nobody has paid for."""

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Reptile, "noised_delta", fail)
    policy = opened(dp_sgd)
    study = with_learner(ReptileSettings(n_way=2, n_shot=1))
    with pytest.raises(MemoryError):
        answer(policy, study=study)
    with pytest.raises(PrivacyError, match="closed without an answer"):
        release(asked(study=study), never, policy, os_noise())
    assert state(policy).spent == policy.terms().per_round()


def test_an_error_of_any_kind_after_the_noise_closes_the_round(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Reptile, body: Any, theta: Any, work: NoisedWork) -> Any:
        from metaward.meta.noised import descend

        descend(body, theta, [0, 1], work, lr=0.1, steps=1)
        raise RuntimeError

    monkeypatch.setattr(Reptile, "noised_delta", broken)
    policy = opened(dp_sgd)
    study = with_learner(ReptileSettings(n_way=2, n_shot=1))
    with pytest.raises(RuntimeError):
        answer(policy, study=study)
    with pytest.raises(PrivacyError, match="closed"):
        release(asked(study=study), never, policy, os_noise())


# Learners


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


@BOTH
def test_samples_are_of_all_patients_or_of_all_blocks(make: Make, opened: Any) -> None:
    counted: list[int] = []

    class Counting(KnownSource):
        def uniforms(self, n: int) -> Any:
            counted.append(n)
            return super().uniforms(n)

    release(asked(), twelve_patients, opened(make), Counting())
    # dp-sgd: 12 patients, twice in each of two steps; block: four blocks, once
    assert counted == ([12] * 4 if make is dp_sgd else [4])


@BOTH
def test_a_site_whose_data_cannot_teach_answers_all_the_same(make: Make, opened: Any) -> None:
    """One patient, one image: what leaves is noise, and no refusal tells that there is no more."""
    from private_site import task_of

    policy = opened(make)
    released = release(asked(), lambda: task_of({"p": [0]}), policy, os_noise())
    assert all(leaf.any() for leaf in released.update.delta.values())


def test_a_network_that_mixes_patients_is_refused_before_the_charge(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(door, "build_body", lambda *_: torch.nn.BatchNorm2d(2))
    policy = opened(dp_sgd)
    with pytest.raises(PrivacyError, match="BatchNorm2d"):
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


def test_a_norm_that_is_fixed_stays(opened: Any) -> None:
    policy = opened(dp_sgd, max_grad_norm=2.5)
    answer(policy, 0)
    with Ledger.open(policy.ledger, policy.witness) as ledger:
        memory = ledger._memory_of(ledger.state.studies[STUDY.digest()])
    assert memory is not None
    assert json.loads(memory) == {"max_grad_norm": 2.5}


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


def test_with_the_accountant_of_record_no_round_too_many(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metaward_client.privacy.accountant import epsilon, plus
    from metaward_client.privacy.ledger.limits import accountant_of_record
    from metaward_client.privacy.terms import Relation

    monkeypatch.setattr(
        "metaward_client.privacy.ledger.ledger.accountant_of_record", accountant_of_record
    )
    policy = opened(dp_sgd, steps_per_round=1, noise_multiplier=1.0, sample_rate=0.5)
    rounds = 0
    with contextlib.suppress(BudgetExceeded):
        for rounds in range(50):
            answer(policy, rounds)
    relation = Relation.ADD_OR_REMOVE_ONE
    spent, one = state(policy).spent, policy.terms().per_round()
    assert 1 <= sum(spent.values()) == rounds < 49
    assert epsilon(spent, target_delta=1e-3, relation=relation) <= 3.0
    assert epsilon(plus(spent, one), target_delta=1e-3, relation=relation) > 3.0


def test_dp_sgd_draws_nobody_from_a_task_on_another_device(opened: Any) -> None:
    def elsewhere() -> Task:
        return replace(twelve_patients(), device=torch.device("meta"))

    with pytest.raises(ValueError, match="holds on a CPU alone"):
        release(asked(), elsewhere, opened(dp_sgd), os_noise())
