"""From a budget to the noise that keeps it."""

import functools
import math

from metaward.errors import PrivacyError
from metaward_client.privacy.accountant import epsilon
from metaward_client.privacy.terms import GaussianStep, Relation

LEAST_NOISE = 0.3
"""Below, a handful of steps already promises nothing."""
MOST_NOISE = 1000.0
DECIMALS = 3


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
    """Return the smallest noise multiplier, rounded up, that keeps all rounds within a budget.

    Args:
        rounds: Rounds in all.
        steps: k, noised sums per round.
        sample_rate: q.
        target_epsilon: What may be spent.
        target_delta: At which delta.
        relation: Which two data sets are neighbours.

    Returns:
        sigma with three decimals, at least ``LEAST_NOISE``.

    Raises:
        PrivacyError: No noise up to ``MOST_NOISE`` keeps the budget.
    """

    def keeps(noise: float) -> bool:
        composition = {GaussianStep(noise, sample_rate): rounds * steps}
        spent = epsilon(composition, target_delta=target_delta, relation=relation)
        return spent <= target_epsilon

    low, high = LEAST_NOISE, 2 * LEAST_NOISE
    if keeps(low):
        return low
    while not keeps(high):
        low, high = high, 2 * high
        if high > MOST_NOISE:
            raise PrivacyError(
                f"{rounds} rounds of {steps} steps for epsilon {target_epsilon:g}",
                expected=f"a noise multiplier of at most {MOST_NOISE:g}",
                next_step="Ask for fewer rounds, or allow a larger epsilon.",
            )
    while high - low > 10**-DECIMALS / 2:
        middle = (low + high) / 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    rounded: float = math.ceil(high * 10**DECIMALS) / 10**DECIMALS
    assert keeps(rounded)
    return rounded
