"""Compose privacy losses: dp-accounting's distribution of one step, any number of steps at once.

The privacy loss of a step is the random number ln(P(o) / Q(o)), o drawn from P, for the two output
distributions P and Q that neighbouring data sets give. Losses of adaptive steps add up, so their
distribution is a convolution: a product of powers in the Fourier domain (Koskela et al. 2020,
arXiv:1906.03049). With p the composed distribution,

    delta(epsilon) = p(infinity) + sum over losses l > epsilon of (1 - exp(epsilon - l)) p(l)

What keeps the answer on the safe side, in the order of the work:

1. One step comes from dp-accounting, which rounds it onto a grid so that delta can only grow
   ("connect the dots", Doroshenko et al. 2022, arXiv:2207.04380).
2. A transform of N points wraps losses round modulo N. The window of N points is chosen by
   Chernoff's bound: at most ``TAIL_MASS`` lies outside, and is counted as infinite loss.
3. What float64 can lose is counted as infinite loss too: ``FLOATING_POINT_MASS``, and the mass that
   a step's distribution lacks to 1. Negative probabilities, which are rounding, are set to 0.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metaward_client.privacy.terms import Composition, GaussianStep, Relation

if TYPE_CHECKING:
    from dp_accounting.privacy_accountant import NeighboringRelation

INTERVAL = 1e-4
"""Distance of two losses on the grid; dp-accounting's own default, to agree with it."""
TAIL_MASS = 1e-13
FLOATING_POINT_MASS = 1e-11
"""Far above the error of the transform (about 1e-13 in all), far below any useful target delta."""
LARGEST_LOSS = 200.0
"""A step that can lose more than this has no noise to speak of: its epsilon is infinite here."""
LARGEST_COMPOSED_LOSS = 500.0
MOST_POINTS = 2**22
"""A composition that loses more, or spreads wider, promises nothing: its epsilon is infinite."""
SMALLEST_AMPLITUDE = math.log(1e-30)
ORDERS = np.outer([-1.0, 1.0], 2.0 ** np.arange(-3, 12.5, 0.5)).ravel()  # of Chernoff's bound


@dataclass(frozen=True, eq=False)
class StepLoss:
    """The loss of one step between two neighbours, in one direction.

    Args:
        first: Grid index of the first loss: the loss is ``first * interval``.
        probabilities: Of consecutive grid points, float64, shape (n,).
        infinity_mass: Probability of an infinite loss, missing mass included.
        log_moments: ln E[exp(order * loss)] for each of ``ORDERS``.
    """

    first: int
    probabilities: NDArray[np.float64]
    infinity_mass: float
    log_moments: NDArray[np.float64]

    @property
    def last(self) -> int:
        """Grid index of the last loss."""
        return self.first + len(self.probabilities) - 1


@dataclass(frozen=True)
class ComposedLoss:
    """The loss of a whole composition in one direction; fields as in ``StepLoss``."""

    first: int
    probabilities: NDArray[np.float64]
    infinity_mass: float
    interval: float

    def epsilon(self, target_delta: float) -> float:
        """Return the smallest epsilon >= 0 with delta(epsilon) <= target_delta, or infinity."""
        if self.infinity_mass > target_delta:
            return math.inf
        start = max(0, 1 - self.first)  # losses at or below 0 add nothing to delta(epsilon >= 0)
        losses = (self.first + np.arange(start, len(self.probabilities))) * self.interval
        above = self.probabilities[start:]
        mass = np.append(np.cumsum(above[::-1])[::-1], 0.0)
        tilted = np.append(np.cumsum((above * np.exp(-losses))[::-1])[::-1], 0.0)
        points = np.concatenate(
            ([0.0], losses)
        )  # delta is decreasing; mass[i] lies above points[i]
        deltas = self.infinity_mass + mass - np.exp(points) * tilted
        cell = int(np.argmax(deltas <= target_delta))
        if cell == 0:
            return 0.0
        # Within [points[cell - 1], points[cell]) the same losses lie above epsilon: solve for it.
        excess = self.infinity_mass + mass[cell - 1] - target_delta
        return max(0.0, math.log(excess / tilted[cell - 1]))


def composed_epsilon(
    composition: Composition,
    target_delta: float,
    relation: Relation,
    interval: float = INTERVAL,
) -> float:
    """Return the epsilon of a composition that is not empty; see :func:`compose`."""
    directions = compose(composition, relation, interval)
    if directions is None:
        return math.inf
    return max(direction.epsilon(target_delta) for direction in directions)


def compose(
    composition: Composition, relation: Relation, interval: float = INTERVAL
) -> tuple[ComposedLoss, ...] | None:
    """Return the composed loss per direction (one if both are alike); None: too large to matter.

    Args:
        composition: How many of each step; not empty, counts at least 1.
        relation: Which data sets are neighbours.
        interval: Distance of two losses on the grid; larger is faster and more pessimistic.
    """
    if any(largest_loss(step, relation) > LARGEST_LOSS for step in composition):
        return None
    counts = {step_loss(step, relation, interval): n for step, n in composition.items()}
    composed = []
    for direction in range(max(len(losses) for losses in counts)):
        parts = {losses[min(direction, len(losses) - 1)]: n for losses, n in counts.items()}
        loss = _compose_direction(parts, interval)
        if loss is None:
            return None
        composed.append(loss)
    return tuple(composed)


def _compose_direction(parts: Mapping[StepLoss, int], interval: float) -> ComposedLoss | None:
    lower, upper = _window(parts, interval)
    points = _fast_length(upper - lower + 1)
    if points > MOST_POINTS or upper * interval > LARGEST_COMPOSED_LOSS:
        return None
    from scipy import fft

    log_amplitude, phase = np.zeros((2, points // 2 + 1))
    for part, count in parts.items():
        log_amplitude += count * _spectrum(part, points)[0]
        phase += count * _spectrum(part, points)[1]
    kept = np.flatnonzero(log_amplitude > SMALLEST_AMPLITUDE)
    spectrum = np.zeros(points // 2 + 1, dtype=np.complex128)
    spectrum[kept] = np.exp(log_amplitude[kept] + 1j * phase[kept])
    probabilities = np.maximum(fft.irfft(spectrum, points), 0.0)
    origin = sum(n * part.first for part, n in parts.items())
    finite = sum(n * math.log1p(-part.infinity_mass) for part, n in parts.items())
    return ComposedLoss(
        first=lower,
        probabilities=np.roll(probabilities, -((lower - origin) % points)),
        infinity_mass=-math.expm1(finite) + TAIL_MASS + FLOATING_POINT_MASS,
        interval=interval,
    )


def _window(parts: Mapping[StepLoss, int], interval: float) -> tuple[int, int]:
    """Return grid indices with at most ``TAIL_MASS`` below the first and above the second.

    Chernoff: P(L >= x) <= E[exp(t L)] exp(-t x) for t > 0, and likewise below for t < 0.
    """
    log_moments = sum(n * part.log_moments for part, n in parts.items())
    bounds = (log_moments + math.log(2 / TAIL_MASS)) / ORDERS / interval
    bounds = np.where(np.isfinite(bounds), bounds, np.copysign(np.inf, ORDERS))
    upper = min(bounds[ORDERS > 0].min(), sum(n * part.last for part, n in parts.items()))
    lower = max(bounds[ORDERS < 0].max(), sum(n * part.first for part, n in parts.items()))
    return math.floor(lower), math.ceil(upper)


def _fast_length(points: int) -> int:
    """Return the next of 2^k and 1.5 * 2^k: few lengths, so that transforms are used again."""
    power = 1 << max(4, (points - 1).bit_length())
    return power * 3 // 4 if power * 3 // 4 >= points else power


@functools.lru_cache(maxsize=32)
def _spectrum(part: StepLoss, points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ln of the amplitude, and the phase, of a step's loss wrapped round ``points``."""
    from scipy import fft

    wrapped = np.zeros(-(-len(part.probabilities) // points) * points)
    wrapped[: len(part.probabilities)] = part.probabilities
    transform = fft.rfft(wrapped.reshape(-1, points).sum(axis=0))
    return np.log(np.maximum(np.abs(transform), 1e-300)), np.angle(transform)


@functools.lru_cache(maxsize=64)
def step_loss(step: GaussianStep, relation: Relation, interval: float) -> tuple[StepLoss, ...]:
    """Return dp-accounting's loss of one Poisson-sampled Gaussian, per direction.

    Adding and removing a patient differ, and neither covers the other under composition (Lebeda
    et al. 2024, arXiv:2405.20769): both are kept. Replacing is symmetric: two vectors of norm C, as
    far apart as 2C, which dp-accounting's ``REPLACE_ONE`` knows.
    """
    from dp_accounting.pld import privacy_loss_distribution

    both = privacy_loss_distribution.from_gaussian_mechanism(
        step.noise_multiplier,
        sampling_prob=step.sample_rate,
        value_discretization_interval=interval,
        neighboring_relation=neighboring_relation(relation),
    )
    # dp-accounting has no public name for these arrays; the pinned version and a test hold it.
    directions = [both._pmf_remove] if both._symmetric else [both._pmf_remove, both._pmf_add]
    return tuple(_step_loss(direction.to_dense_pmf(), interval) for direction in directions)


def _step_loss(pmf: Any, interval: float) -> StepLoss:  # Any: dp-accounting has no types
    probabilities = np.asarray(pmf._probs, dtype=np.float64)
    first = int(pmf._lower_loss)
    losses = (first + np.arange(len(probabilities), dtype=np.float64)) * interval
    some = probabilities > 0
    log_moments = [_log_moment(order, losses[some], probabilities[some]) for order in ORDERS]
    missing = max(0.0, 1 - pmf._infinity_mass - math.fsum(probabilities))
    return StepLoss(first, probabilities, pmf._infinity_mass + missing, np.array(log_moments))


def _log_moment(
    order: float, losses: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> float:
    """Return ln E[exp(order * loss)] without overflow."""
    exponents = order * losses
    largest = float(max(exponents[0], exponents[-1]))  # losses ascend
    return largest + math.log(float(probabilities @ np.exp(exponents - largest)))


def largest_loss(step: GaussianStep, relation: Relation) -> float:
    """Return the loss of a step at 10 standard deviations, where dp-accounting ends its grid.

    >>> round(largest_loss(GaussianStep(1.0, 1.0), Relation.ADD_OR_REMOVE_ONE), 1)
    10.5
    """
    moved = 2.0 if relation is Relation.REPLACE_ONE else 1.0
    sigma, q = step.noise_multiplier, step.sample_rate
    exponent = (moved / 2 + 10 * sigma) * moved / sigma**2
    return max(0.0, exponent + math.log(q)) if q < 1 else exponent


def neighboring_relation(relation: Relation) -> "NeighboringRelation":
    """Return dp-accounting's name of a relation."""
    from dp_accounting.privacy_accountant import NeighboringRelation

    match relation:
        case Relation.ADD_OR_REMOVE_ONE:
            return NeighboringRelation.ADD_OR_REMOVE_ONE
        case Relation.REPLACE_ONE:
            return NeighboringRelation.REPLACE_ONE
