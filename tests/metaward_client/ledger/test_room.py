"""Kept answers of the accountant: as strict as asking it, and rarely asked."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_faults import CountingDisk
from ledger_place import BLOCK, BUDGET, TERMS, TOY, A, B, C, Place, cost, toy_rounds_within

from metaward_client.privacy.accountant import MOST_ROUNDS
from metaward_client.privacy.ledger import BudgetExceeded, Ledger, RoundId
from metaward_client.privacy.ledger.limits import Accountant, Limit, ask, known_answer
from metaward_client.privacy.terms import (
    Budget,
    Composition,
    GaussianStep,
    Relation,
    Terms,
)

ADD, REPLACE = Relation
CHEAP = replace(TERMS, noise_multiplier=512.0)
"""One round of it costs 1.25 / 512."""


class Asked:
    """An accountant that counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0
        self.accountant = Accountant("toy", self._rounds_within)

    def _rounds_within(
        self, spent: Composition, per_round: Composition, budget: Budget, relation: Relation
    ) -> int:
        self.times += 1
        return toy_rounds_within(spent, per_round, budget, relation)


def reserve(
    place: Place, asked: Asked, round_: RoundId, terms: Terms = TERMS, budget: Budget = BUDGET
) -> None:
    with Ledger.open(
        place.ledger,
        place.witness,
        clock=place.clock,
        accountant=asked.accountant,
        disk=CountingDisk(),
    ) as ledger:
        ledger.reserve(round_, terms, budget)


def test_the_accountant_is_asked_once_for_a_study_even_where_it_ends_refused(
    place: Place,
) -> None:
    asked = Asked()
    for index in range(6):
        reserve(place, asked, RoundId(A, index))
    for index in range(6, 9):
        with pytest.raises(BudgetExceeded):
            reserve(place, asked, RoundId(A, index))
    assert asked.times == 1


def test_a_round_that_is_refused_again_and_again_adds_one_entry_in_all(place: Place) -> None:
    for _ in range(5):
        with pytest.raises(BudgetExceeded):
            reserve(place, Asked(), RoundId(A, 0), TERMS, Budget(1.0, 1e-5))
    with place.open() as ledger:
        assert ledger.state.entries == 2


def test_studies_that_take_turns_ask_rarely(place: Place) -> None:
    """3,276 rounds of 1.25/512 fit; two studies take turns until none does."""
    asked = Asked()
    turns = [(A, CHEAP), (B, replace(CHEAP, sample_rate=0.25)), (A, CHEAP), (A, CHEAP)]
    spent = 0.0
    with Ledger.open(
        place.ledger,
        place.witness,
        clock=place.clock,
        accountant=asked.accountant,
        disk=CountingDisk(),
    ) as ledger:
        for index in range(2000):
            study, terms = turns[index % 4]
            try:
                ledger.reserve(RoundId(study, index), terms, Budget(1.0, 1e-5))
            except BudgetExceeded:
                break
            spent += cost(terms.per_round(), ADD)
    assert 1.0 - 1.25 / 512 < spent <= 1.0
    assert asked.times <= 20


@pytest.mark.parametrize(
    ("budget", "times"),
    [
        (BUDGET, 1),
        (Budget(7.9, 1e-5), 2),  # a lower epsilon
        (Budget(8.0, 0.9e-5), 2),  # a lower delta
    ],
)
def test_a_kept_answer_holds_for_its_budget_and_greater_ones(
    place: Place, budget: Budget, times: int
) -> None:
    asked = Asked()
    reserve(place, asked, RoundId(A, 0))
    reserve(place, asked, RoundId(A, 1), budget=budget)
    assert asked.times == times


def test_a_kept_answer_of_another_accountant_is_not_used(place: Place) -> None:
    asked = Asked()
    reserve(place, asked, RoundId(A, 0))
    newer = Asked()
    newer.accountant = replace(newer.accountant, name="toy 2")
    reserve(place, newer, RoundId(A, 1))
    assert (asked.times, newer.times) == (1, 1)


def test_a_kept_answer_of_another_relation_is_not_used(place: Place) -> None:
    asked = Asked()
    reserve(place, asked, RoundId(A, 0))
    reserve(place, asked, RoundId(B, 0), BLOCK)
    assert asked.times > 1


def test_more_rounds_than_the_accountant_counts_leave_the_end_open() -> None:
    endless = Accountant("endless", lambda *_: MOST_ROUNDS)
    step = GaussianStep(1.0, 0.5)
    limit = ask(endless, {}, {step: 1}, BUDGET, ADD)
    assert limit.beyond is None
    assert limit.answers({step: MOST_ROUNDS + 1}, BUDGET, ADD, "endless") is None
    assert Limit.from_json(limit.to_json()) == limit


def test_a_step_that_a_limit_does_not_know_is_not_covered_by_it() -> None:
    known, other = GaussianStep(1.0, 0.5), GaussianStep(1.0, 0.25)
    limit = Limit(BUDGET, ADD, "toy", {known: 10}, {known: 11})
    assert limit.answers({known: 10}, BUDGET, ADD, "toy") is True
    assert limit.answers({known: 1, other: 1}, BUDGET, ADD, "toy") is None
    assert limit.answers({known: 11, other: 1}, BUDGET, ADD, "toy") is False


@pytest.mark.parametrize(
    ("budget", "fits", "does_not_fit"),
    [
        (Budget(8.0, 1e-5), True, False),
        (Budget(8.1, 1e-5), True, None),
        (Budget(8.0, 2e-5), True, None),
        (Budget(7.9, 1e-5), None, False),
        (Budget(8.0, 0.5e-5), None, False),
        (Budget(8.1, 0.5e-5), None, None),
    ],
)
def test_what_fits_fits_greater_budgets_and_what_does_not_does_not_fit_smaller_ones(
    budget: Budget, fits: bool | None, does_not_fit: bool | None
) -> None:
    step = GaussianStep(1.0, 0.5)
    limit = Limit(BUDGET, ADD, "toy", {step: 10}, {step: 11})
    assert limit.answers({step: 10}, budget, ADD, "toy") is fits
    assert limit.answers({step: 11}, budget, ADD, "toy") is does_not_fit


STEPS = [GaussianStep(sigma, q) for sigma in (1.0, 2.0) for q in (0.5, 0.25)]
compositions = st.dictionaries(st.sampled_from(STEPS), st.integers(1, 12), max_size=3)
budgets = st.builds(Budget, st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.sampled_from([1e-6, 1e-5]))


@settings(max_examples=300, deadline=None)
@given(
    history=st.lists(
        st.tuples(compositions, compositions.filter(bool), budgets, st.sampled_from(Relation)),
        max_size=6,
    ),
    wanted=compositions.filter(bool),
    budget=budgets,
    relation=st.sampled_from(Relation),
)
def test_a_kept_answer_is_what_the_accountant_would_say(
    history: list[tuple[Composition, Composition, Budget, Relation]],
    wanted: Composition,
    budget: Budget,
    relation: Relation,
) -> None:
    limits = [ask(TOY, *question) for question in history]
    limits = [Limit.from_json(limit.to_json()) for limit in limits]
    answer = known_answer(limits, wanted, budget, relation, "toy")
    truth = cost(wanted, relation) <= budget.target_epsilon
    assert answer in (None, truth)


def test_the_toy_distinguishes_enough_for_the_test_above() -> None:
    """Both answers and neither occur."""
    step = STEPS[0]
    limit = ask(TOY, {}, {step: 1}, Budget(4.0, 1e-5), ADD)
    answers = Counter(limit.answers({step: n}, Budget(4.0, 1e-5), ADD, "toy") for n in range(1, 40))
    assert set(answers) == {True, False}
    assert limit.answers({step: 1}, Budget(2.0, 1e-5), ADD, "toy") is None


def test_the_accountant_of_record_lets_as_many_rounds_in_as_it_says(place: Place) -> None:
    """(q, sigma) = (.05, 1.5), five steps, epsilon 2 at 1e-6: 21 rounds; from PRIVACY.md."""
    terms = Terms("dp-sgd", 1.5, 0.05, 5, 1.0, 10.0)
    answered = []
    with Ledger.open(place.ledger, place.witness, clock=place.clock, disk=CountingDisk()) as ledger:
        for index in islice(range(100), 30):
            try:
                ledger.reserve(RoundId(C, index), terms, Budget(2.0, 1e-6))
            except BudgetExceeded:
                break
            answered.append(index)
    assert len(answered) == 21


def test_a_round_with_a_kept_answer_imports_no_accountant(place: Place) -> None:
    """In a fresh process, as every round of a hospital's client is."""
    script = (
        "import sys; from pathlib import Path\n"
        "from metaward_client.privacy.ledger import Ledger, RoundId\n"
        "from metaward_client.privacy.terms import Budget, Terms\n"
        "terms = Terms('dp-sgd', 1.5, 0.05, 5, 1.0, 10.0)\n"
        "with Ledger.open(Path(sys.argv[1]), Path(sys.argv[2])) as ledger:\n"
        "    for index in range(int(sys.argv[3]), int(sys.argv[4])):\n"
        "        ledger.reserve(RoundId('a' * 64, index), terms, Budget(2.0, 1e-6))\n"
        "heavy = {'dp_accounting', 'numpy', 'scipy', 'torch'} & set(sys.modules)\n"
        "print(','.join(sorted(heavy)))\n"
    )

    def heavy_after(first: int, last: int) -> str:
        command = [sys.executable, "-c", script, place.ledger, place.witness, first, last]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    assert "dp_accounting" in heavy_after(0, 1)
    assert heavy_after(1, 3) == ""
