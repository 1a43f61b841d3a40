"""A round is answered once: asked again it gives the same bytes, or stays closed for good."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metaward.errors import PrivacyError
from metaward.learner_settings import ReptileSettings
from metaward.meta.noised import NoisedWork
from metaward.meta.reptile import Reptile
from metaward.privacy_promise import PrivacyPromise
from metaward_client.privacy.ledger import Ledger, Reservation, RoundId
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import NoPrivacy
from metaward_client.privacy.release import Released, release
from metaward_client.privacy.round_memory import RoundMemory
from private_site import STUDY, THETA, KnownSource, asked, block, dp_sgd, twelve_patients
from release_cases import BOTH, Make, answer, content, never, state, with_learner

pytestmark = pytest.mark.usefixtures("one_thread", "quick_accountant")


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


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_process_that_is_told_to_end_leaves_the_round_to_be_worked_on_again(
    end: type[BaseException], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is killed does: charged once, and answered when it is asked again."""

    def stop(*_: Any, **__: Any) -> Any:
        raise end

    policy = opened(dp_sgd)
    study = with_learner(ReptileSettings(n_way=2, n_shot=1))
    with monkeypatch.context() as patch:
        patch.setattr(Reptile, "noised_delta", stop)
        with pytest.raises(end):
            answer(policy, study=study)
    assert not answer(policy, study=study).replayed
    assert answer(policy, study=study).replayed
    assert state(policy).spent == policy.terms().per_round()


def broken_after_one_sum(self: Reptile, body: Any, theta: Any, work: NoisedWork) -> Any:
    from metaward.meta.noised import descend

    descend(body, theta, [0, 1], work, lr=0.1, steps=1)
    raise RuntimeError


def test_an_error_of_any_kind_after_the_noise_closes_the_round(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reptile, "noised_delta", broken_after_one_sum)
    policy = opened(dp_sgd)
    study = with_learner(ReptileSettings(n_way=2, n_shot=1))
    with pytest.raises(RuntimeError):
        answer(policy, study=study)
    with pytest.raises(PrivacyError, match="closed"):
        release(asked(study=study), never, policy, os_noise())


def test_a_closed_round_leaves_the_norm_where_its_noised_sums_moved_it(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are charged, so the study's next round may go on from there."""

    monkeypatch.setattr(Reptile, "noised_delta", broken_after_one_sum)
    policy = opened(dp_sgd, adaptive_clipping=True, max_grad_norm=1e6)
    study = with_learner(ReptileSettings(n_way=2, n_shot=1))
    with pytest.raises(RuntimeError):
        release(asked(study=study), twelve_patients, policy, KnownSource())
    with Ledger.open(policy.ledger, policy.witness) as ledger:
        next_round = ledger.reserve(RoundId(study.digest(), 1), policy.terms(), policy.budget)
    assert isinstance(next_round, Reservation)
    assert (
        RoundMemory.read(next_round.memory).start_norm(policy) < 1e6
    )  # all are below, so it falls
