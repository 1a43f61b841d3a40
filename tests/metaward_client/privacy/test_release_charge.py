"""A round is charged once and before the work, and without room in the budget no data is opened."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from metaward.errors import PrivacyError
from metaward.tasks import Task
from metaward_client.privacy.ledger import BudgetExceeded
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.release import release
from private_site import ROUNDS_THAT_FIT, STUDY, asked, dp_sgd, twelve_patients
from release_cases import BOTH, Make, answer, failing, never, state

pytestmark = pytest.mark.usefixtures("one_thread", "quick_accountant")


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
    for change in ({"noise_multiplier": 2.0}, {"sample_rate": 0.25}, {"max_grad_norm": 0.7},
                   {"adaptive_clipping": True}):  # fmt: skip
        with pytest.raises(PrivacyError, match="other privacy terms"):
            release(asked(1), never, policy.model_copy(update=change), os_noise())
    assert len(state(policy).releases) == 1


def test_a_policy_that_allows_more_than_the_ledger_records_releases_nothing(opened: Any) -> None:
    policy = opened(dp_sgd).model_copy(update={"target_epsilon": 30.0})
    with pytest.raises(PrivacyError, match="which the ledger records"):
        release(asked(), never, policy, os_noise())


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
