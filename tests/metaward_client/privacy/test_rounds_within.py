"""As many rounds fit a budget as the accountant allows, and not one more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting_cases import ADD, REPLACE, STEP, dp_accounting_epsilon, steps
from metaward.errors import PrivacyError
from metaward_client.privacy.accountant import MOST_ROUNDS, epsilon, largest, plus, rounds_within
from metaward_client.privacy.terms import Budget

# 5 steps a round, target delta 1e-6, counted round by round.
ROUNDS = [
    (0.05, 1.5, 316, 21),
    (0.05, 1.0, 88, 1),
    (0.02, 1.0, 620, 29),
    (0.1, 2.0, 157, 10),
]


@pytest.mark.parametrize(("sample_rate", "sigma", "at_eight", "at_two"), ROUNDS)
def test_rounds_within_a_budget_are_as_many_as_fit_and_not_one_more(
    sample_rate: float, sigma: float, at_eight: int, at_two: int
) -> None:
    per_round = steps((sigma, sample_rate, 5))
    for target_epsilon, expected in ((8.0, at_eight), (2.0, at_two)):
        budget = Budget(target_epsilon, 1e-6)
        assert rounds_within({}, per_round, budget, ADD) == expected


def test_dp_accounting_itself_says_that_one_round_more_is_one_too_many() -> None:
    per_round = steps((1.5, 0.05, 5))
    for target_epsilon, rounds in ((8.0, 316), (2.0, 21)):
        most = dp_accounting_epsilon(plus({}, per_round, rounds), 1e-6, ADD)
        more = dp_accounting_epsilon(plus({}, per_round, rounds + 1), 1e-6, ADD)
        assert most <= target_epsilon < more


def test_rounds_that_were_done_are_rounds_fewer() -> None:
    per_round, budget = {STEP: 5}, Budget(8.0, 1e-6)
    for done in (0, 1, 40, 87, 88, 89, 500):
        spent = plus({}, per_round, done)
        assert rounds_within(spent, per_round, budget, ADD) == max(0, 88 - done)


def test_what_other_studies_spent_is_counted() -> None:
    per_round, budget = {STEP: 5}, Budget(8.0, 1e-6)
    spent = steps((2.0, 0.1, 37), (1.0, 0.05, 3), (8.0, 1.0, 2))
    rounds = rounds_within(spent, per_round, budget, REPLACE)
    assert 0 < rounds < rounds_within({}, per_round, budget, REPLACE)
    for extra, fits in ((0, True), (1, False)):
        total = plus(spent, per_round, rounds + extra)
        assert (epsilon(total, target_delta=1e-6, relation=REPLACE) <= 8.0) is fits


def test_a_ledger_already_over_its_budget_allows_no_round() -> None:
    assert rounds_within({STEP: 1000}, steps((50.0, 0.01, 1)), Budget(2.0, 1e-6), ADD) == 0


def test_a_round_of_no_steps_is_refused_rather_than_free() -> None:
    with pytest.raises(PrivacyError, match="a release that costs nothing is not private"):
        rounds_within({}, {STEP: 0}, Budget(8.0, 1e-6), ADD)


def test_the_number_of_rounds_is_bounded() -> None:
    tiny = steps((500.0, 1e-5, 1))
    assert rounds_within({}, tiny, Budget(8.0, 1e-5), ADD) == MOST_ROUNDS


@given(limit=st.integers(-1, 300), at_most=st.integers(1, 200))
def test_the_search_finds_the_last_that_fits(limit: int, at_most: int) -> None:
    asked: list[int] = []

    def fits(n: int) -> bool:
        asked.append(n)
        return n <= limit

    assert largest(fits, at_most=at_most) == min(limit, at_most)
    assert max(asked) <= at_most
