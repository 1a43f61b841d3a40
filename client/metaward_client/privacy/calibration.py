"""From a budget to the noise that it takes, and from the noise to the rounds that it allows.

The search runs in thousandths of sigma: first on a coarse grid of privacy losses, which is fast and
answers no less than the fine one, then on the accountant's own grid from there downwards.
"""

import functools
import math
from collections.abc import Callable

from metaward.errors import PrivacyError
from metaward_client.privacy.accountant import epsilon, rounds_within
from metaward_client.privacy.terms import LEAST_DELTA, Budget, GaussianStep, Relation

LEAST_NOISE = 0.3
"""With less the guarantee rests on the sampling alone, and no smaller sigma is proposed."""
MOST_NOISE = 1000.0
COARSE_INTERVAL = 1e-3
THOUSANDTHS = 1000


@functools.lru_cache(maxsize=64)
def noise_multiplier_for(
    *,
    rounds: int,
    steps: int,
    sample_rate: float,
    target_epsilon: float,
    target_delta: float,
    relation: Relation,
) -> float:
    """Return the smallest noise multiplier that keeps all rounds within the budget.

    Args:
        rounds: At least 1.
        steps: Noised sums per round, at least 1.
        sample_rate: q, in (0, 1].
        target_epsilon: Of all rounds together.
        target_delta: Of all rounds together.
        relation: Which data sets are neighbours.

    Returns:
        sigma with 3 decimals, rounded up: it fits, and 0.001 less does not; at least
        ``LEAST_NOISE``, where that is enough.

    Raises:
        PrivacyError: Not even ``MOST_NOISE`` is enough, or a value is out of its range.
    """
    budget = _within_sight(Budget(target_epsilon, target_delta))
    count = _at_least_one("rounds", rounds) * _at_least_one("steps", steps)

    def fits_coarsely(thousandths: int) -> bool:
        from metaward_client.privacy.privacy_loss import composed_epsilon

        composition = {GaussianStep(thousandths / THOUSANDTHS, sample_rate): count}
        spent = composed_epsilon(composition, target_delta, relation, COARSE_INTERVAL)
        return spent <= budget.target_epsilon

    def fits(thousandths: int) -> bool:
        composition = {GaussianStep(thousandths / THOUSANDTHS, sample_rate): count}
        spent = epsilon(composition, target_delta=target_delta, relation=relation)
        return spent <= budget.target_epsilon

    least, most = round(LEAST_NOISE * THOUSANDTHS), round(MOST_NOISE * THOUSANDTHS)
    if fits_coarsely(most):
        start = _smallest(fits_coarsely, least - 1, most)
    elif fits(most):
        start = most
    else:
        raise PrivacyError(
            f"{rounds} rounds of {steps} steps at sample rate {sample_rate:g} cost more than "
            f"epsilon {target_epsilon:g} at delta {target_delta:g} ({relation}) with any noise up "
            f"to {MOST_NOISE:g} times the clip norm",
            expected="a plan that noise can protect",
            next_step="Plan fewer rounds or steps, a smaller sample rate, or a larger epsilon.",
        )
    return _downwards(fits, least, start) / THOUSANDTHS


def rounds_for(
    *,
    noise_multiplier: float,
    steps: int,
    sample_rate: float,
    target_epsilon: float,
    target_delta: float,
    relation: Relation,
) -> int:
    """Return how many rounds fit into a budget that is still whole; 0 if not even one does.

    Raises:
        PrivacyError: A value is out of its range.
    """
    per_round = {GaussianStep(noise_multiplier, sample_rate): _at_least_one("steps", steps)}
    budget = _within_sight(Budget(target_epsilon, target_delta))
    return rounds_within({}, per_round, budget, relation)


def _smallest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest that fits in (low, high], of which ``high`` does.

    The middle is the geometric one while the ends are far apart: noise is a matter of proportion.
    """
    while high - low > 1:
        middle = math.isqrt(max(low, 1) * high) if high > 2 * low else (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _downwards(fits: Callable[[int], bool], least: int, start: int) -> int:
    """Return the smallest that fits in [least, start], of which ``start`` does; few below it do."""
    width = 1
    while start - width >= least and fits(start - width):
        start, width = start - width, 2 * width
    return _smallest(fits, max(start - width, least - 1), start)


def _within_sight(budget: Budget) -> Budget:
    """Refuse a delta that the accountant cannot resolve: no noise would seem to be enough."""
    if budget.target_delta < LEAST_DELTA:
        raise PrivacyError(
            f"{budget.target_delta:g}",
            expected=f"at least {LEAST_DELTA:g}, which is what the accountant can resolve",
            where="target_delta",
            next_step="Plan with a larger delta; 1 / (10 patients) is small enough.",
        )
    return budget


def _at_least_one(name: str, value: int) -> int:
    if type(value) is not int or value < 1:
        raise PrivacyError(
            f"{value!r}",
            expected="a whole number, at least 1",
            where=name,
            next_step="Correct the plan.",
        )
    return value
