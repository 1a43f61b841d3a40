"""Poisson sampling: does every patient enter on their own, with the stated probability?

Over many draws: how often each unit entered (binomial), how much the size of the sample varies
(n q (1 - q) under Poisson sampling, 0 for shuffled batches of fixed size), and whether any two
units enter together more or less often than q^2 says.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy_audit.findings import Finding, verdict_of

Sampler = Callable[[int, float, Normals], NDArray[np.int64]]

UNITS = 40
SIGNIFICANCE = 1.0e-4


@dataclass(frozen=True)
class SamplesSeen:
    """What the samples looked like; p-values, the pairwise one after Bonferroni.

    Attributes:
        p_units: Every unit enters with probability q.
        p_size: The size of the sample varies as n independent coins do.
        p_pairs: No two units are tied.
        size_variance_ratio: Measured over claimed variance of the sample's size.
    """

    p_units: float
    p_size: float
    p_pairs: float
    size_variance_ratio: float

    @property
    def sound(self) -> bool:
        """Whether nothing contradicts the claim."""
        return min(self.p_units, self.p_size, self.p_pairs) > SIGNIFICANCE


def samples_seen(sampler: Sampler, sample_rate: float, source: Normals, draws: int) -> SamplesSeen:
    """Draw many samples of ``UNITS`` units and test them; ``sample_rate`` is in (0, 1)."""
    from scipy.stats import chi2, norm

    entered = np.zeros((draws, UNITS))
    for number in range(draws):
        entered[number, sampler(UNITS, sample_rate, source)] = 1.0
    variance = sample_rate * (1 - sample_rate)
    z_units = (entered.sum(axis=0) - draws * sample_rate) / np.sqrt(draws * variance)
    p_units = float(chi2(UNITS).sf(np.sum(z_units**2)))

    sizes = entered.sum(axis=1)
    squares = np.square(sizes - UNITS * sample_rate)
    expected = UNITS * variance
    # variance of a squared centred binomial: mu_4 - mu_2^2
    fourth = expected * (1 + 3 * (UNITS - 2) * variance)
    z_size = (squares.mean() - expected) / np.sqrt((fourth - expected**2) / draws)
    p_size = float(2 * norm.sf(abs(z_size)))

    centred = entered - sample_rate
    z_pairs = (centred.T @ centred) / np.sqrt(draws) / variance
    pairs = z_pairs[np.triu_indices(UNITS, 1)]
    p_pairs = float(min(1.0, 2 * norm.sf(np.abs(pairs).max()) * len(pairs)))
    return SamplesSeen(p_units, p_size, p_pairs, float(squares.mean() / expected))


def sampling_finding(seen: SamplesSeen, draws: int) -> Finding:
    """Say whether the samples are Poisson samples."""
    return Finding(
        check="sampling",
        question="Is who takes part in a step decided by a coin of each patient's own?",
        done=f"{draws:,} samples were drawn. How often each unit entered, how the size of the "
        "sample varied, and whether any two units were tied was tested.",
        seen="The size of the sample varied "
        f"{seen.size_variance_ratio:.3f} times as much as independent coins make it vary; "
        f"the smallest p-value was {min(seen.p_units, seen.p_size, seen.p_pairs):.2g}.",
        verdict=verdict_of(seen.sound),
        figures={
            "p_units": seen.p_units,
            "p_size": seen.p_size,
            "p_pairs": seen.p_pairs,
            "size_variance_ratio": seen.size_variance_ratio,
        },
    )
