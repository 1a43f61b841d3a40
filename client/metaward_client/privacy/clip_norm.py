"""The clip norm: how one unit's vector is bounded, and how the bound may follow the data.

Adaptive clipping (Andrew, Thakkar, McMahan and Ramaswamy 2021, arXiv:1905.03871, algorithm 1): C
moves towards the median norm by

    C <- C exp(-eta (b - gamma)),   b = 1/2 + (sum_i (b_i - 1/2) + N(0, sigma_b^2)) / divisor

with b_i = 1 where unit i was not clipped. The released pair (sum of vectors, sum of bits) is one
Gaussian mechanism with noise multiplier z, when the vectors get z_v and the bits sigma_b
(theorem 1):

    z^-2 = z_v^-2 + (2 sigma_b)^-2

The site's z is what the accountant charges, so the bits are paid for by a larger z_v:
z_v = NOISE_FACTOR z, and sigma_b = z / (2 sqrt(1 - NOISE_FACTOR^-2)).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOISE_FACTOR = 1.05
"""Noise on the vectors grows by 5%; the bits then have a standard deviation of 1.64 z."""
LEARNING_RATE = 0.2
"""eta, from the paper's section 3."""
QUANTILE = 0.5
"""gamma: the median."""
ROUNDING_MARGIN = 1.0 - 1.0e-4
"""Part of C that a clipped vector has at most. The rest is for the rounding of the clip itself, and
not for what another patient in the batch could move: that has to be no bit (docs/threat-model.md,
E), since a coordinator can choose meta-parameters under which last bits become the whole vector."""


@dataclass(frozen=True)
class NoiseShares:
    """Noise multipliers of the vectors and of the bits that together cost ``z``."""

    vectors: float
    bits: float


def noise_shares(noise_multiplier: float, *, adaptive: bool) -> NoiseShares:
    """Split a noise multiplier so that vectors and bits together cost what it costs."""
    if not adaptive:
        return NoiseShares(noise_multiplier, math.inf)
    bits = noise_multiplier / (2 * math.sqrt(1 - NOISE_FACTOR**-2))
    return NoiseShares(NOISE_FACTOR * noise_multiplier, bits)


def clip_factors(norms: NDArray[np.float64], max_grad_norm: float) -> NDArray[np.float64]:
    """Return what each vector is multiplied with: min(1, C / norm), and 0 where not finite."""
    finite = np.isfinite(norms)
    safe = np.where(finite, np.maximum(norms, max_grad_norm), 1.0)
    return np.where(finite, max_grad_norm * ROUNDING_MARGIN / safe, 0.0)


def centred_bits(norms: NDArray[np.float64], max_grad_norm: float) -> float:
    """Return the sum of b_i - 1/2; one unit moves it by 1/2, and a norm that is no number by 0."""
    finite = norms[np.isfinite(norms)]
    return float(np.sum(finite <= max_grad_norm) - 0.5 * len(finite))


def next_norm(max_grad_norm: float, noised_bits: float, divisor: float) -> float:
    """Return the next C from the noised sum of centred bits, as in the module's formula."""
    share = min(max(0.5 + noised_bits / divisor, 0.0), 1.0)
    return max_grad_norm * math.exp(-LEARNING_RATE * (share - QUANTILE))
