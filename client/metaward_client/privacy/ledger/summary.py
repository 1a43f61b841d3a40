"""What a ledger says, in figures: what is spent, what the next round costs, what is left."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metaward_client.privacy import accountant
from metaward_client.privacy.accountant import plus
from metaward_client.privacy.ledger.state import UNIT, LedgerState, StudyRecord
from metaward_client.privacy.terms import Budget, Composition, Relation, Terms

SAMPLING = "Poisson"
FORECAST_AT_LEAST = 100
CURVE_POINTS = 40
"""Compositions that a plot asks the accountant about; of a thousand releases each 25th."""

Epsilon = Callable[[Composition, float, Relation], float]
RoundsWithin = Callable[[Composition, Composition, Budget, Relation], int]


@dataclass(frozen=True)
class Accounting:
    """The accountant's three answers; by default those of record."""

    name: str
    epsilon: Epsilon
    rounds_within: RoundsWithin


@dataclass(frozen=True)
class StudySummary:
    """One study in the ledger.

    Attributes:
        rounds: Charged.
        answered: Of these, committed.
        steps: Noised sums of all its charged rounds.
        epsilon: As if it were alone, in the relation of the whole ledger. These do not add up: the
            studies together cost less than the sum.
    """

    study: str
    terms: Terms
    rounds: int
    answered: int
    steps: int
    epsilon: float


@dataclass(frozen=True)
class BudgetSummary:
    """A ledger against a site's policy.

    Attributes:
        budget: What holds: the smaller of what the ledger records and what site.yaml allows.
        recorded: What the ledger records.
        epsilon: Spent, by everything that was charged.
        epsilon_after_next: Spent if one more round under the policy's terms is charged.
        rounds_remaining: Rounds under the policy's terms that still fit.
    """

    ledger: str
    relation: Relation
    accountant: str
    budget: Budget
    recorded: Budget
    terms: Terms
    studies: tuple[StudySummary, ...]
    releases: int
    epsilon: float
    epsilon_after_next: float
    rounds_remaining: int


def accounting_of_record() -> Accounting:
    """Return the accountant that counts; it imports what it needs when it is asked."""
    return Accounting(
        accountant.accountant_name(),
        lambda composition, target_delta, relation: accountant.epsilon(
            composition, target_delta=target_delta, relation=relation
        ),
        accountant.rounds_within,
    )


def summarise(
    state: LedgerState, policy: Budget, terms: Terms, accounting: Accounting
) -> BudgetSummary:
    """Return where a ledger stands under a site's policy.

    Everything is accounted in the relation in which the next round would be.
    """
    relation = state.relation_with(terms)
    budget = Budget(
        min(policy.target_epsilon, state.budget.target_epsilon),
        min(policy.target_delta, state.budget.target_delta),
    )

    def spent_by(composition: Composition) -> float:
        return accounting.epsilon(composition, budget.target_delta, relation)

    charge = terms.per_round()
    return BudgetSummary(
        ledger=state.ledger,
        relation=relation,
        accountant=accounting.name,
        budget=budget,
        recorded=state.budget,
        terms=terms,
        studies=tuple(_of_study(study, spent_by) for study in state.studies.values()),
        releases=len(state.releases),
        epsilon=spent_by(state.spent),
        epsilon_after_next=spent_by(plus(state.spent, charge)),
        rounds_remaining=accounting.rounds_within(state.spent, charge, budget, relation),
    )


def epsilon_curve(
    state: LedgerState, target_delta: float, relation: Relation, accounting: Accounting
) -> list[tuple[int, float]]:
    """Return (releases, epsilon spent by them) from (0, 0) to now, at most ``CURVE_POINTS`` + 1."""
    total = len(state.releases)
    asked = {round(total * point / CURVE_POINTS) for point in range(CURVE_POINTS + 1)}
    spent: Composition = {}
    curve = []
    for done in range(total + 1):
        if done in asked:
            curve.append((done, accounting.epsilon(spent, target_delta, relation)))
        if done < total:
            spent = plus(spent, state.releases[done].charge)
    return curve


def forecast(
    state: LedgerState, summary: BudgetSummary, accounting: Accounting
) -> list[tuple[int, float]]:
    """Return (releases, epsilon) from now on, if the site goes on under the policy's terms.

    It ends where the budget ends, or where the plot would show little else.
    """
    ahead = min(summary.rounds_remaining, max(FORECAST_AT_LEAST, 4 * summary.releases))
    asked = sorted({round(ahead * point / CURVE_POINTS) for point in range(CURVE_POINTS + 1)})
    charge = summary.terms.per_round()
    return [
        (
            summary.releases + rounds,
            accounting.epsilon(
                plus(state.spent, charge, rounds), summary.budget.target_delta, summary.relation
            ),
        )
        for rounds in asked
    ]


def as_json(summary: BudgetSummary) -> dict[str, Any]:  # Any: JSON holds any plain value
    """Return plain values; an epsilon that is infinite is null."""
    return {
        "ledger": summary.ledger,
        "unit": UNIT,
        "relation": summary.relation.value,
        "sampling": SAMPLING,
        "accountant": summary.accountant,
        "target_epsilon": summary.budget.target_epsilon,
        "target_delta": summary.budget.target_delta,
        "recorded": {
            "target_epsilon": summary.recorded.target_epsilon,
            "target_delta": summary.recorded.target_delta,
        },
        "epsilon": _finite(summary.epsilon),
        "releases": summary.releases,
        "next_round": {
            "mechanism": summary.terms.mechanism,
            "noise_multiplier": summary.terms.noise_multiplier,
            "sample_rate": summary.terms.sample_rate,
            "steps": summary.terms.steps,
            "costs_epsilon": _finite(summary.epsilon_after_next - summary.epsilon),
            "epsilon_after": _finite(summary.epsilon_after_next),
        },
        "rounds_remaining": summary.rounds_remaining,
        "studies": [_study_as_json(study) for study in summary.studies],
    }


def _of_study(study: StudyRecord, spent_by: Callable[[Composition], float]) -> StudySummary:
    spent: Composition = {}
    for release in study.releases.values():
        spent = plus(spent, release.charge)
    return StudySummary(
        study=study.study,
        terms=study.terms,
        rounds=len(study.releases),
        answered=len(study.committed),
        steps=sum(spent.values()),
        epsilon=spent_by(spent),
    )


def _study_as_json(study: StudySummary) -> dict[str, Any]:  # Any: JSON holds any plain value
    return {
        "study": study.study,
        "mechanism": study.terms.mechanism,
        "rounds": study.rounds,
        "answered": study.answered,
        "noise_multiplier": study.terms.noise_multiplier,
        "sample_rate": study.terms.sample_rate,
        "max_grad_norm": study.terms.max_grad_norm,
        "steps": study.steps,
        "epsilon": _finite(study.epsilon),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
