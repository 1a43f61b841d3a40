"""Answers of the accountant, kept in the chain: does the next round fit, without asking again.

The accountant takes seconds in a fresh process. What it finds is kept as an entry of the ledger,
as trustworthy as the rest of the chain:

    "composition F fits (target_epsilon, target_delta) under this relation, composition B does not"

The epsilon of a composition grows with every step, falls with delta, and so F answers for every
composition that is step by step at most F, at any greater budget; B answers for all that are at
least B, at any smaller one. A limit of another relation or another accountant answers nothing.

F is made along the mix of what the studies of late ask for, so that studies which take turns do not
make each other's limits worthless: each new limit covers at least half of what is left.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from metaward_client.privacy.accountant import MOST_ROUNDS, accountant_name, plus, rounds_within
from metaward_client.privacy.terms import Budget, Composition, GaussianStep, Relation

NEWEST = 32
"""Limits that are looked at. One is made per study and then one per halving of what is left."""

Charge = list[list[float]]
"""A composition as JSON: rows of noise_multiplier, sample_rate, count."""


@dataclass(frozen=True)
class Accountant:
    """Who says what fits.

    Attributes:
        name: With the version, as it stands beside every epsilon.
        rounds_within: As :func:`metaward_client.privacy.accountant.rounds_within`.
    """

    name: str
    rounds_within: Callable[[Composition, Composition, Budget, Relation], int]


def accountant_of_record() -> Accountant:
    """Return the one that counts outside tests; imports nothing heavy until it is asked."""
    return Accountant(accountant_name(), rounds_within)


@dataclass(frozen=True)
class Limit:
    """One answer; see the top of this file.

    Attributes:
        fits: F. Empty where nothing more fits, which says nothing.
        beyond: B. ``None`` where none was found.
    """

    budget: Budget
    relation: Relation
    accountant: str
    fits: Composition
    beyond: Composition | None

    def answers(
        self, wanted: Composition, budget: Budget, relation: Relation, accountant: str
    ) -> bool | None:
        """Say whether a composition fits a budget; ``None`` where this limit cannot say."""
        if relation != self.relation or accountant != self.accountant:
            return None
        ours = self.budget
        if (
            ours.target_epsilon <= budget.target_epsilon
            and ours.target_delta <= budget.target_delta
            and at_most(wanted, self.fits)
        ):
            return True
        if (
            self.beyond is not None
            and ours.target_epsilon >= budget.target_epsilon
            and ours.target_delta >= budget.target_delta
            and at_most(self.beyond, wanted)
        ):
            return False
        return None

    def to_json(self) -> dict[str, Any]:  # Any: JSON holds any plain value
        """Return the payload of the entry."""
        return {
            "target_epsilon": self.budget.target_epsilon,
            "target_delta": self.budget.target_delta,
            "relation": self.relation.value,
            "accountant": self.accountant,
            "fits": charge_to_json(self.fits),
            "beyond": None if self.beyond is None else charge_to_json(self.beyond),
        }

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> "Limit":  # Any: JSON holds any plain value
        """Read the payload of an entry."""
        beyond = payload["beyond"]
        return cls(
            Budget(payload["target_epsilon"], payload["target_delta"]),
            Relation(payload["relation"]),
            payload["accountant"],
            charge_from_json(payload["fits"]),
            None if beyond is None else charge_from_json(beyond),
        )


def known_answer(
    limits: Sequence[Limit],
    wanted: Composition,
    budget: Budget,
    relation: Relation,
    accountant: str,
) -> bool | None:
    """Return what the newest limits say; ``None`` where the accountant must be asked."""
    for limit in reversed(limits[-NEWEST:]):
        answer = limit.answers(wanted, budget, relation, accountant)
        if answer is not None:
            return answer
    return None


def ask(
    accountant: Accountant,
    before: Composition,
    direction: Composition,
    budget: Budget,
    relation: Relation,
) -> Limit:
    """Ask how often ``direction`` fits on top of ``before``, which may take seconds."""
    rounds = accountant.rounds_within(before, direction, budget, relation)
    return Limit(
        budget,
        relation,
        accountant.name,
        plus(before, direction, rounds) if rounds else {},
        plus(before, direction, rounds + 1) if rounds < MOST_ROUNDS else None,
    )


def at_most(smaller: Composition, larger: Composition) -> bool:
    """Say whether one composition has no more of any step than another.

    >>> step = GaussianStep(1.0, 0.5)
    >>> at_most({step: 2}, {step: 3}), at_most({step: 2}, {})
    (True, False)
    """
    return all(count <= larger.get(step, 0) for step, count in smaller.items())


def charge_to_json(charge: Composition) -> Charge:
    """Return rows of noise_multiplier, sample_rate, count, in order."""
    return [[step.noise_multiplier, step.sample_rate, n] for step, n in sorted(charge.items())]


def charge_from_json(rows: Charge) -> Composition:
    """Return the composition that the rows state."""
    return _charge_of(tuple(map(tuple, rows)))


@functools.lru_cache(maxsize=1024)
def _charge_of(rows: tuple[tuple[float, ...], ...]) -> Composition:
    """Of a thousand rounds nearly all cost the same."""
    return MappingProxyType({GaussianStep(sigma, q): int(count) for sigma, q, count in rows})
