"""What a composition costs, and how many more rounds a budget allows.

The accountant of record is dp-accounting's PLD; ``privacy_loss`` composes it fast enough to ask
before every round. Both relations, any mixture of steps, the same answer in any order and after any
history: nothing here remembers what was asked, other than to answer the same question sooner.
"""

import functools
import importlib.metadata
from collections.abc import Callable

from metaward.errors import PrivacyError
from metaward_client.privacy.terms import Budget, Composition, GaussianStep, Relation

MOST_ROUNDS = 1_000_000
"""``rounds_within`` says this where at least so many rounds fit."""

COMPOSITION = 1
"""Version of what is done with dp-accounting's distribution of one step, here and in privacy_loss.

To be raised with every change that makes another answer of any question: a ledger keeps answers
under the accountant's name, and they must not outlive a correction.
"""

FrozenComposition = tuple[tuple[GaussianStep, int], ...]


def epsilon(composition: Composition, *, target_delta: float, relation: Relation) -> float:
    """Return the epsilon of a composition: dp-accounting's, or a little above it; never below.

    Above by up to 1e-4 and by what 1e-11 of target_delta is worth, which is given away so that
    float64 can lose nothing: as seen, 0.0004 at 1e-8 and 0.04 at 1e-10.

    Args:
        composition: How many of each step; steps with count 0 are ignored.
        target_delta: Above 0, below 1. Below ``LEAST_DELTA`` epsilon may be infinite.
        relation: Which two data sets are neighbours.

    Returns:
        0.0 for an empty composition; infinity, a legal value that exceeds every budget, where the
        noise is too small for any promise.

    Raises:
        PrivacyError: A count is not a whole number of at least 0, or target_delta is out of range.
    """
    Budget(target_epsilon=1.0, target_delta=target_delta)  # refuses a target_delta out of range
    return _epsilon(_frozen(composition), target_delta, relation)


def rounds_within(
    spent: Composition, per_round: Composition, budget: Budget, relation: Relation
) -> int:
    """Return how many more rounds fit into a budget: never one too many, never one too few.

    Args:
        spent: What the ledger holds already.
        per_round: What one more round adds; not empty.
        budget: Target epsilon and target delta of all of it together.
        relation: Which two data sets are neighbours.

    Returns:
        n with ``epsilon(spent + n * per_round) <= target_epsilon`` and not so for n + 1; 0 where
        not even ``spent`` fits; at most ``MOST_ROUNDS``.

    Raises:
        PrivacyError: ``per_round`` is empty, or a count is not a whole number of at least 0.
    """
    before, added = dict(_frozen(spent)), dict(_frozen(per_round))
    if not added:
        raise PrivacyError(
            "a round of no steps",
            expected="at least one noised sum per round",
            next_step="State the round's steps: a release that costs nothing is not private.",
        )
    done = min(before.get(step, 0) // count for step, count in added.items())
    rest = {step: count - done * added.get(step, 0) for step, count in before.items()}
    return max(0, _horizon(_frozen(rest), _frozen(added), budget, relation) - done)


def plus(spent: Composition, per_round: Composition, rounds: int = 1) -> dict[GaussianStep, int]:
    """Return ``spent + rounds * per_round``."""
    steps = spent.keys() | per_round.keys()
    return {step: spent.get(step, 0) + rounds * per_round.get(step, 0) for step in sorted(steps)}


def accountant_name() -> str:
    """Return the name and versions that stand beside every printed epsilon."""
    of_one_step = importlib.metadata.version("dp-accounting")
    return f"PLD, dp-accounting {of_one_step}, composition {COMPOSITION}"


@functools.lru_cache(maxsize=4096)
def _epsilon(composition: FrozenComposition, target_delta: float, relation: Relation) -> float:
    if not composition:
        return 0.0
    from metaward_client.privacy.privacy_loss import composed_epsilon

    return composed_epsilon(dict(composition), target_delta, relation)


@functools.lru_cache(maxsize=256)
def _horizon(
    rest: FrozenComposition, per_round: FrozenComposition, budget: Budget, relation: Relation
) -> int:
    """Return how many rounds fit after ``rest``, which holds no whole round; -1 for not even it.

    One search serves a study from its first round to its last: its ledger differs from ``rest`` by
    whole rounds only.
    """

    def fits(rounds: int) -> bool:
        total = _frozen(plus(dict(rest), dict(per_round), rounds))
        return _epsilon(total, budget.target_delta, relation) <= budget.target_epsilon

    return largest(fits, at_most=MOST_ROUNDS)


def largest(fits: Callable[[int], bool], *, at_most: int) -> int:
    """Return the largest n in [0, at_most] that fits, or -1; what fits is an interval from 0.

    >>> largest(lambda n: n * n <= 50, at_most=1000)
    7
    """
    if not fits(0):
        return -1
    low, high = 0, 1  # low fits
    while high <= at_most and fits(high):
        low, high = high, 2 * high
    high = min(high, at_most + 1)
    while high - low > 1:  # high does not fit, or is above at_most
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _frozen(composition: Composition) -> FrozenComposition:
    for step, count in composition.items():
        if type(count) is not int or count < 0:
            raise PrivacyError(
                f"{count!r} steps at sigma {step.noise_multiplier:g}",
                expected="a whole number of steps, at least 0",
                next_step="Correct the composition; nothing was released.",
            )
    return tuple(sorted((step, count) for step, count in composition.items() if count))
