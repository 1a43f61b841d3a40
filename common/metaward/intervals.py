"""95% intervals for means of scores that are repeated by patient and by episode.

One patient is a query in many episodes, and all queries of an episode are scored by the same
adapted classifier. Scores are therefore correlated in two crossed ways, and an interval that
counts every query as new evidence (the binomial one) is far too narrow. Used here is the two-way
cluster-robust variance of Cameron, Gelbach and Miller 2011 (J. Business & Economic Statistics
29(2), eq. 2.3), for a mean:

    V = V_patient + V_episode - V_patient-and-episode
    V_g = G / (G - 1) * sum over clusters (sum of residuals in the cluster)^2 / n^2

and Student's t with min(patients, episodes) - 1 degrees of freedom.

Two things are ours, and both only widen the interval:

- V may come out smaller than a one-way variance, or negative. It is never taken below the larger
  of V_patient and V_episode.
- Patients all alike say nothing about the kind of patient that was not met. With G patients, a
  kind that makes up a fraction ``u = 1 - 0.025 ** (1 / G)`` of all patients is missed with a
  probability of 2.5% (the exact binomial bound of Clopper and Pearson 1934, the "rule of three").
  Were that kind always scored lowest, or always highest, the mean would move towards the end of
  the scale by ``u`` times the way. The interval reaches at least as far. So all-correct scores of
  30 patients give [0.884, 1], the exact interval for 30 of 30, and not [1, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
ACCURACY_SCALE = (0.0, 1.0)
DIFFERENCE_SCALE = (-1.0, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: The mean.
        low: Lower end of the 95% interval, on the scale of the score.
        high: Upper end.
        standard_error: Two-way clustered; NaN where one patient or one episode leaves it unknown.
        patients: Different patients scored; for a mean over sites, their sum.
        episodes: Different episodes scored; for a mean over sites, their sum.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    patients: int
    episodes: int

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero."""
        return self.low > 0.0 or self.high < 0.0


def clustered_mean(
    values: NDArray[np.floating],
    patients: NDArray[np.integer],
    episodes: NDArray[np.integer],
    *,
    scale: tuple[float, float] = ACCURACY_SCALE,
) -> Estimate:
    """Return the mean of ``values`` with its two-way clustered 95% interval.

    Args:
        values: (n,) one score per query; finite.
        patients: (n,) patient of each query.
        episodes: (n,) episode of each query.
        scale: Lowest and highest value that the mean can take. The interval stays within.

    With one patient or one episode nothing is known about the spread between them, and the
    interval is the whole scale.
    """
    scores = np.asarray(values, dtype=np.float64)
    assert scores.ndim == 1
    assert len(scores) == len(patients) == len(episodes) > 0
    mean = float(np.mean(scores))
    patient_of, n_patients = _numbered(patients)
    episode_of, n_episodes = _numbered(episodes)
    if min(n_patients, n_episodes) < 2:
        return Estimate(mean, scale[0], scale[1], math.nan, n_patients, n_episodes)
    error = math.sqrt(_two_way_variance(scores - mean, patient_of, episode_of))
    reach = float(stdtrit(min(n_patients, n_episodes) - 1, (1 + LEVEL) / 2)) * error
    low, high = mean - reach, mean + reach
    if scale == ACCURACY_SCALE or error == 0.0:
        unseen = unseen_fraction(n_patients)
        low = min(low, mean - unseen * (mean - scale[0]))
        high = max(high, mean + unseen * (scale[1] - mean))
    return Estimate(mean, max(low, scale[0]), min(high, scale[1]), error, n_patients, n_episodes)


def paired_difference(
    values: NDArray[np.floating],
    reference: NDArray[np.floating],
    patients: NDArray[np.integer],
    episodes: NDArray[np.integer],
) -> Estimate:
    """Return the mean of ``values - reference`` with its interval; both (n,), same queries.

    Pairing removes what both methods share: hard patients and unlucky supports. The allowance for
    patients not met is made only where no patient shows a difference from the mean.
    """
    difference = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    return clustered_mean(difference, patients, episodes, scale=DIFFERENCE_SCALE)


def mean_over_sites(sites: Sequence[Estimate]) -> Estimate:
    """Return the mean over sites, each with equal weight, with its interval.

    Sites are fixed: the interval speaks of these sites and not of another one. Scores at different
    sites are independent, so variances add. Each side of the interval is combined by itself
    (the method of variance estimates recovery, Zou and Donner 2008, Statistics in Medicine
    27:1693), which keeps the asymmetry near the ends of the scale:

        low = mean - sqrt(sum over sites ((mean_i - low_i) / k)^2)
    """
    assert sites
    k = len(sites)
    mean = math.fsum(site.mean for site in sites) / k
    return Estimate(
        mean=mean,
        low=mean - math.hypot(*(site.mean - site.low for site in sites)) / k,
        high=mean + math.hypot(*(site.high - site.mean for site in sites)) / k,
        standard_error=math.hypot(*(site.standard_error for site in sites)) / k,
        patients=sum(site.patients for site in sites),
        episodes=sum(site.episodes for site in sites),
    )


def unseen_fraction(n_patients: int) -> float:
    """Return the largest fraction of patients that ``n_patients`` draws can all miss (2.5%).

    >>> round(unseen_fraction(30), 4)
    0.1157
    """
    return float(1.0 - ((1 - LEVEL) / 2) ** (1.0 / n_patients))


def _two_way_variance(
    residuals: NDArray[np.float64], patients: NDArray[np.int64], episodes: NDArray[np.int64]
) -> float:
    pairs, _ = _numbered(patients * (int(episodes.max()) + 1) + episodes)
    by_patient, by_episode, by_both = (
        _one_way_variance(residuals, clusters) for clusters in (patients, episodes, pairs)
    )
    return max(by_patient + by_episode - by_both, by_patient, by_episode)


def _one_way_variance(residuals: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    sums = np.bincount(clusters, weights=residuals)
    n_clusters = len(sums)
    return float(np.sum(sums**2)) / len(residuals) ** 2 * n_clusters / (n_clusters - 1)


def _numbered(clusters: NDArray[np.integer]) -> tuple[NDArray[np.int64], int]:
    """Return clusters renumbered 0..n-1, and n."""
    names, numbered = np.unique(clusters, return_inverse=True)
    return numbered.astype(np.int64).reshape(-1), len(names)
