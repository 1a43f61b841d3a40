"""Does a round fit into the budget? From a kept answer; else from the accountant, then kept."""

from metaward_client.privacy.accountant import plus
from metaward_client.privacy.ledger.chain import Kind
from metaward_client.privacy.ledger.journal import Journal
from metaward_client.privacy.ledger.limits import Accountant, ask, known_answer
from metaward_client.privacy.ledger.refusals import RAISE_BUDGET, BudgetExceeded
from metaward_client.privacy.ledger.rounds import RoundId
from metaward_client.privacy.ledger.state import UNIT, LedgerState
from metaward_client.privacy.terms import Budget, Composition, GaussianStep, Relation

LATE = 64
"""Releases whose studies are expected to go on."""


def require_room(
    journal: Journal,
    round_: RoundId,
    charge: Composition,
    budget: Budget,
    relation: Relation,
    accountant: Accountant,
) -> None:
    """Return if the ledger with this round stays within the budget.

    A round that the ledger holds already is counted once.

    Raises:
        BudgetExceeded: It does not.
    """
    before = _spent_without(journal.state, round_)
    if not _fits(journal, round_, before, charge, budget, relation, accountant):
        raise BudgetExceeded(
            "the round would cost more than is left of the privacy budget",
            expected=f"at most epsilon {budget.target_epsilon:g} at delta {budget.target_delta:g} "
            f"over all studies (unit: {UNIT}; relation: {relation})",
            where=round_.where,
            next_step="Nothing was computed; the study goes on without this site. A person may "
            f"raise the budget: `{RAISE_BUDGET}`.",
        )


def _fits(
    journal: Journal,
    round_: RoundId,
    before: Composition,
    charge: Composition,
    budget: Budget,
    relation: Relation,
    accountant: Accountant,
) -> bool:
    wanted = plus(before, charge)
    answer = known_answer(journal.state.limits, wanted, budget, relation, accountant.name)
    if answer is not None:
        return answer
    for direction in (_late_mix(journal.state, round_, charge), charge):
        limit = ask(accountant, before, direction, budget, relation)
        answer = limit.answers(wanted, budget, relation, accountant.name)
        if answer is not None:
            journal.append(Kind.LIMIT, limit.to_json())
            return answer
    raise AssertionError("the accountant was asked about this very round")


def _spent_without(state: LedgerState, round_: RoundId) -> Composition:
    study = state.studies.get(round_.study)
    release = study.releases.get(round_.round_index) if study else None
    return state.spent if release is None else plus(state.spent, release.charge, -1)


def _late_mix(state: LedgerState, round_: RoundId, charge: Composition) -> Composition:
    """Return one round of each study that was active of late, this one among them."""
    charges = {release.round.study: release.charge for release in state.releases[-LATE:]}
    mix: dict[GaussianStep, int] = {}
    for each in (charges | {round_.study: charge}).values():
        mix = plus(mix, each)
    return mix
