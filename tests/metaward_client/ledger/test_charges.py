"""What rounds cost: one sum over studies and restarts, under the first terms, within the budget."""

from dataclasses import replace

import pytest
from ledger_place import BLOCK, BUDGET, OTHER, TERMS, A, B, C, Place

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import BudgetExceeded, RoundId
from metaward_client.privacy.terms import Budget, GaussianStep, Relation, Terms

STEP = GaussianStep(1.0, 0.5)
FIRST = RoundId(A, 0)


def test_a_charge_without_commit_counts_as_spent(place: Place) -> None:
    for index in range(6):
        with place.open() as ledger:
            ledger.reserve(RoundId(A, index), TERMS, BUDGET)
    with place.open() as ledger, pytest.raises(BudgetExceeded, match="more than is left"):
        ledger.reserve(RoundId(A, 6), TERMS, BUDGET)


def test_a_refused_round_is_not_charged_and_leaves_no_reservation(place: Place) -> None:
    place.play([RoundId(A, index) for index in range(6)])
    with place.open() as ledger:
        with pytest.raises(BudgetExceeded, match="at most epsilon 8 at delta 1e-05") as refusal:
            ledger.reserve(RoundId(B, 0), TERMS, BUDGET)
        assert ledger.state.spent == {STEP: 30}
        assert list(ledger.state.studies) == [A]
    assert refusal.value.exit_code == 4
    assert "unit: patient" in refusal.value.expected
    assert "metaward site ledger raise-budget" in refusal.value.next_step


def test_what_is_spent_is_the_sum_over_studies_and_restarts(place: Place) -> None:
    place.play([RoundId(A, 0), RoundId(A, 7)])
    place.play([RoundId(B, 0)], OTHER)
    with place.open() as ledger:
        assert ledger.state.spent == {STEP: 10, GaussianStep(2.0, 0.5): 5}


def test_a_cheaper_study_still_fits_where_a_dearer_one_does_not(place: Place) -> None:
    place.play([RoundId(A, index) for index in range(5)])  # 6.25 of 8
    place.play([RoundId(B, 0)], OTHER)  # 6.875
    with place.open() as ledger:
        with pytest.raises(BudgetExceeded):
            ledger.reserve(RoundId(A, 5), TERMS, BUDGET)
        ledger.reserve(RoundId(B, 1), OTHER, BUDGET)  # 7.5
        with pytest.raises(BudgetExceeded):
            ledger.reserve(RoundId(B, 2), OTHER, BUDGET)


def test_one_block_release_makes_the_whole_ledger_replace_one(place: Place) -> None:
    place.play([FIRST])  # 1.25 added or removed, 5 replaced
    place.play([RoundId(B, 0)], BLOCK)  # 1 more
    with place.open() as ledger:
        assert ledger.state.relation is Relation.REPLACE_ONE
        with pytest.raises(BudgetExceeded, match="replace one patient"):
            ledger.reserve(RoundId(A, 1), TERMS, BUDGET)
        ledger.reserve(RoundId(B, 1), BLOCK, BUDGET)


def test_patient_steps_after_a_block_release_leave_the_ledger_replace_one(place: Place) -> None:
    place.play([RoundId(B, 0)], BLOCK)
    place.play([FIRST])
    with place.open() as ledger:
        assert ledger.state.relation is Relation.REPLACE_ONE
        with pytest.raises(BudgetExceeded, match="replace one patient"):
            ledger.reserve(RoundId(A, 1), TERMS, BUDGET)


def test_a_block_release_is_refused_where_the_past_does_not_fit_as_replace_one(
    place: Place,
) -> None:
    place.play([RoundId(A, 0), RoundId(A, 1)])  # 2.5 added or removed, 10 replaced
    with place.open() as ledger:
        with pytest.raises(BudgetExceeded, match="replace one patient"):
            ledger.reserve(RoundId(B, 0), BLOCK, BUDGET)
        assert ledger.state.relation is Relation.ADD_OR_REMOVE_ONE
        ledger.reserve(RoundId(A, 2), TERMS, BUDGET)  # as it was


@pytest.mark.parametrize(
    "other",
    [
        replace(TERMS, noise_multiplier=1.5),
        replace(TERMS, sample_rate=0.25),
        replace(TERMS, steps=4),
        replace(TERMS, max_grad_norm=2.0),
        replace(TERMS, divisor=11.0),
        replace(TERMS, adaptive_clipping=True),
        BLOCK,
    ],
)
def test_terms_are_those_of_the_studys_first_round(place: Place, other: Terms) -> None:
    place.play([FIRST])
    with place.open() as ledger:
        for round_ in (RoundId(A, 1), RoundId(A, 2)):
            with pytest.raises(PrivacyError, match="other privacy terms"):
                ledger.reserve(round_, other, BUDGET)
        assert ledger.state.spent == {STEP: 5}
        ledger.reserve(RoundId(B, 0), other, BUDGET)


def test_a_resumed_round_keeps_its_terms_too(place: Place) -> None:
    with place.open() as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)
    with place.open() as ledger, pytest.raises(PrivacyError, match="other privacy terms"):
        ledger.reserve(FIRST, OTHER, BUDGET)


def test_a_resumed_round_that_would_cost_something_else_now_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of metaward that charges the same terms otherwise does not go on under them."""
    with place.open() as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)
    monkeypatch.setattr(Terms, "per_round", lambda _: {STEP: 4})
    with place.open() as ledger, pytest.raises(PrivacyError, match="other privacy terms"):
        ledger.reserve(FIRST, TERMS, BUDGET)


def test_a_resumed_round_is_refused_where_the_budget_was_lowered_below_it(place: Place) -> None:
    with place.open() as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)
    with place.open() as ledger:
        with pytest.raises(BudgetExceeded):
            ledger.reserve(FIRST, TERMS, Budget(1.0, 1e-5))
        ledger.reserve(FIRST, TERMS, Budget(1.25, 1e-5))


def test_a_caller_may_not_allow_more_than_the_ledger_records(place: Place) -> None:
    with place.open() as ledger:
        for budget in (Budget(8.01, 1e-5), Budget(8.0, 1.1e-5)):
            with pytest.raises(PrivacyError, match="metaward site ledger raise-budget"):
                ledger.reserve(FIRST, TERMS, budget)
        assert ledger.state.spent == {}


def test_a_caller_may_allow_less(place: Place) -> None:
    with place.open() as ledger:
        ledger.reserve(RoundId(C, 0), TERMS, Budget(2.0, 1e-5))
        with pytest.raises(BudgetExceeded):
            ledger.reserve(RoundId(C, 1), TERMS, Budget(2.0, 1e-5))
        ledger.reserve(RoundId(C, 1), TERMS, Budget(2.5, 1e-5))
