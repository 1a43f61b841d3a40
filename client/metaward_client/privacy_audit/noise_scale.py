"""Noise scale: is the noise that is really added as large, as normal and as fresh as claimed?

On a release over nobody everything that comes out is noise, and must be

    N(0, (sigma C / divisor)^2)

Its sum of squares over the variance is chi-square, its distribution is compared by Kolmogorov and
Smirnov, and two releases must have nothing to do with one another. A sound mechanism fails one of
these tests once in some ten thousand runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metaward_client.privacy.clip_norm import LEARNING_RATE, noise_shares
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums, Normals
from metaward_client.privacy.terms import Terms
from metaward_client.privacy_audit.findings import Finding, verdict_of
from metaward_client.privacy_audit.unit_release import Release

Numbers: TypeAlias = NDArray[np.float64]

DRAWS = 100_000
BIT_DRAWS = 2000
"""Of the bits of adaptive clipping, of which a release has one: 7% too little noise is noticed."""
SIGNIFICANCE = 1.0e-4
MOST_SIGMAS = 5.0


@dataclass(frozen=True)
class NoiseSeen:
    """What the noise looked like.

    Attributes:
        ratio: Measured over claimed standard deviation.
        p_scale: Two-sided chi-square p-value of that ratio.
        p_normal: Kolmogorov-Smirnov p-value.
        dependence: Correlation of two releases, in standard errors.
    """

    ratio: float
    p_scale: float
    p_normal: float
    dependence: float

    @property
    def sound(self) -> bool:
        """Whether nothing contradicts the claim."""
        least = min(self.p_scale, self.p_normal)
        return least > SIGNIFICANCE and abs(self.dependence) < MOST_SIGMAS


def noise_seen(
    release: Release, new_source: Callable[[], Normals], std: float, *, patients: int
) -> NoiseSeen:
    """Measure the noise of releases over nobody, or over patients whose vectors are zero.

    Args:
        release: The mechanism.
        new_source: Gives the source of one release.
        std: Claimed standard deviation of what comes out.
        patients: With 0 the sample is empty.
    """
    records = np.zeros((patients, 1, DRAWS))
    first, second = (release(records, new_source()) / std for _ in range(2))
    return _seen_of(first, second)


def _seen_of(first: Numbers, second: Numbers) -> NoiseSeen:
    """Compare two draws of noise over its claimed standard deviation with what it must be."""
    if not np.isfinite(first).all() or not first.any() or not second.any():
        return NoiseSeen(0.0, 0.0, 0.0, 0.0)
    from scipy.stats import kstest

    dependence = float(np.corrcoef(first, second)[0, 1] * np.sqrt(len(first)))
    normal, scale = float(kstest(first, "norm").pvalue), _scale_p_value(first)
    return NoiseSeen(float(np.sqrt(np.mean(first**2))), scale, normal, dependence)


def bits_noise_seen(terms: Terms, new_source: Callable[[], Normals]) -> NoiseSeen:
    """Measure the noise of the bits by which the clip norm adapts.

    The clip norm moves by exp(-eta (b - 1/2)), b = 1/2 + noise / divisor: the noise can be read
    off. The divisor is large enough for b never to be cut off at 0 or 1.
    """
    from dataclasses import replace

    claimed = noise_shares(terms.noise_multiplier, adaptive=True).bits
    wide = replace(terms, divisor=100 * claimed)
    source, seen = new_source(), []
    for _ in range(2 * BIT_DRAWS):
        sums = NoisedSums(wide, source, wide.max_grad_norm)
        sums.release(ClippedSum.empty({"leaf": (1,)}, wide.max_grad_norm), {"leaf": (1,)})
        share = -np.log(sums.max_grad_norm / wide.max_grad_norm) / LEARNING_RATE
        seen.append(share * wide.divisor / claimed)
    return _seen_of(np.array(seen[:BIT_DRAWS]), np.array(seen[BIT_DRAWS:]))


def noise_finding(seen: "dict[str, NoiseSeen]") -> Finding:
    """Say whether the noise is what the accountant was told."""
    ratios = ", ".join(f"{one.ratio:.4f} ({name})" for name, one in seen.items())
    figures = {
        f"{what}, {name}": getattr(one, what)
        for name, one in seen.items()
        for what in ("ratio", "p_scale", "p_normal", "dependence")
    }
    return Finding(
        check="noise scale",
        question="Is the noise that is added as large as the accountant was told, even when "
        "nobody is in the sample?",
        done=f"{DRAWS:,} numbers were released twice per setting with nothing but noise in them, "
        f"and {BIT_DRAWS:,} of the bits by which the clip norm adapts; their size, their bell "
        "shape and their independence were tested.",
        seen=f"Measured over claimed standard deviation: {ratios}; 1 is right.",
        verdict=verdict_of(all(one.sound for one in seen.values())),
        figures=figures,
    )


def _scale_p_value(normals: Numbers) -> float:
    from scipy.stats import chi2

    statistic = float(np.sum(np.square(normals)))
    law = chi2(len(normals))
    return 2 * float(min(law.cdf(statistic), law.sf(statistic)))
