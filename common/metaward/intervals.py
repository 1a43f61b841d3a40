"""95% intervals for means of scores at one hospital, and over hospitals.

Patients come back, as queries and among those that a model adapts on, so that scores are far from
independent, and an interval that counts every query as new evidence (the binomial one) is far too
narrow. The variance is that of :mod:`metaward.clustered_variance`, and Student's t has
min(effective number of patients, episodes) - 1 degrees of freedom.

One thing is ours, and only widens the interval. Patients all alike say nothing about the kind of
patient that was not met. With G patients, a kind that makes up a fraction
``u = 1 - 0.025 ** (1 / G)`` of all patients is missed with a probability of 2.5% (the exact
binomial bound of Clopper and Pearson 1934, the "rule of three"). Were that kind always scored
lowest, or always highest, the mean would move towards the end of the scale by ``u`` times the way.
The interval reaches at least as far. So all-correct scores of 30 patients give [0.884, 1], the
exact interval for 30 of 30, and not [1, 1]. Findings weigh equally however few patients they have:
what two patients of one finding can hide is found by :func:`unseen_fraction`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from metaward.clustered_variance import Draws, SupportRole, variance_of_mean

LEVEL = 0.95
ACCURACY_SCALE = (0.0, 1.0)
DIFFERENCE_SCALE = (-1.0, 1.0)
SMALLEST_SUM = 1e-9
"""What is smaller is rounding."""
LEAST_FREEDOM = 0.05
"""Where one patient has nearly all the weight; Student's t then reaches over any scale."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: The mean.
        low: Lower end of the 95% interval, on the scale of the score.
        high: Upper end.
        standard_error: NaN where one patient or one episode leaves it unknown.
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
    draws: Draws,
    *,
    scale: tuple[float, float] = ACCURACY_SCALE,
    degree: int = 1,
    adapted: SupportRole | None = None,
) -> Estimate:
    """Return the mean of ``values`` with its 95% interval.

    Args:
        values: (n,) one score per query; finite.
        draws: Who was asked, and on whom the model had adapted.
        scale: Lowest and highest value that the mean can take. The interval stays within.
        degree: Patients that one comparison needs: 2 for an area under the ROC curve, which a
            kind of patient always scored lowest takes to (1 - u)^2 of it.
        adapted: What patients add by being adapted on; left out: as these scores show it.

    With one patient or one episode nothing is known about the spread between them, and the
    interval is the whole scale.
    """
    scores = np.asarray(values, dtype=np.float64)
    assert scores.shape == draws.patients.shape
    mean = float(np.mean(scores))
    n_patients, n_episodes = draws.n_asked, draws.n_episodes
    if min(n_patients, n_episodes) < 2:
        return Estimate(mean, scale[0], scale[1], math.nan, n_patients, n_episodes)
    error = math.sqrt(variance_of_mean(scores - mean, draws, adapted))
    freedom = min(draws.effective_patients, n_episodes) - 1
    reach = float(stdtrit(max(freedom, LEAST_FREEDOM), (1 + LEVEL) / 2)) * error
    low, high = mean - reach, mean + reach
    if scale == ACCURACY_SCALE or error == 0.0:
        unseen = 1 - (1 - _unseen(draws)) ** degree
        low = min(low, mean - unseen * (mean - scale[0]))
        high = max(high, mean + unseen * (scale[1] - mean))
    return Estimate(mean, max(low, scale[0]), min(high, scale[1]), error, n_patients, n_episodes)


def paired_difference(
    values: NDArray[np.floating],
    reference: NDArray[np.floating],
    draws: Draws,
    *,
    adapted: SupportRole | None = None,
) -> Estimate:
    """Return the mean of ``values - reference`` with its interval; both (n,), same queries.

    Pairing removes what both methods share: hard patients and unlucky supports. The allowance for
    patients not met is made only where no patient shows a difference from the mean.
    """
    difference = np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    return clustered_mean(difference, draws, scale=DIFFERENCE_SCALE, adapted=adapted)


def mean_over_sites(sites: Sequence[Estimate]) -> Estimate:
    """Return the mean over sites, each with equal weight, with its interval.

    Sites are fixed: the interval speaks of these sites and not of another one. Scores at different
    sites are independent, so variances add. Each side of the interval is combined by itself
    (the method of variance estimates recovery, Zou and Donner 2008, Statistics in Medicine
    27:1693), which keeps the asymmetry near the ends of the scale:

        low = mean - sqrt(sum over sites ((mean_i - low_i) / k)^2)
    """
    assert sites
    return _mean_of(sites, lambda reaches: math.hypot(*reaches), sum(s.patients for s in sites))


def mean_over_findings(
    findings: Sequence[Estimate],
    values: NDArray[np.floating],
    patients: NDArray[np.integer],
    labels: NDArray[np.integer],
) -> Estimate:
    """Return the mean over findings of one site, each with equal weight, with its interval.

    A patient may have images of several findings, and one whose images are hard to name makes all
    of these go wrong together. So their means are correlated, by the patients that they share:

        low = mean - sqrt(sum over i, j of r_ij (mean_i - low_i) (mean_j - low_j)) / k

    (Zou 2008, Statistics in Medicine 27:5, for two). A correlation below zero counts as none.

    Args:
        findings: The mean of each finding, in the order of the labels.
        values: (n,) the scores behind all of them.
        patients: (n,) patient of each score.
        labels: (n,) finding of each score, in 0..k-1.
    """
    numbers = np.unique(patients, return_inverse=True)[1].reshape(-1)
    sums = np.zeros((len(findings), int(numbers.max()) + 1))
    residuals = values - np.array([finding.mean for finding in findings])[labels]
    np.add.at(sums, (labels, numbers), residuals)
    met = np.zeros_like(sums)
    met[labels, numbers] = 1.0
    # all right or all wrong: what such a finding has in common with others are its patients alone
    alike = (np.abs(sums).max(axis=1) < SMALLEST_SUM)[:, None]
    correlations = np.maximum(np.where(alike | alike.T, _cosines(met), _cosines(sums)), 0.0)

    def combined(reaches: list[float]) -> float:
        return math.sqrt(np.array(reaches) @ correlations @ np.array(reaches))

    return _mean_of(findings, combined, sums.shape[1])


def _cosines(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.maximum(np.linalg.norm(rows, axis=1), SMALLEST_SUM)
    return np.asarray((rows @ rows.T) / np.outer(lengths, lengths))


def _mean_of(
    parts: Sequence[Estimate], combined: Callable[[list[float]], float], patients: int
) -> Estimate:
    """Return the mean of equally weighed parts; ``combined`` is the length of their sum."""
    k = len(parts)
    mean = math.fsum(part.mean for part in parts) / k
    return Estimate(
        mean=mean,
        low=mean - combined([part.mean - part.low for part in parts]) / k,
        high=mean + combined([part.high - part.mean for part in parts]) / k,
        standard_error=combined([part.standard_error for part in parts]) / k,
        patients=patients,
        episodes=sum(part.episodes for part in parts),
    )


def unseen_fraction(patients: Sequence[int], shares: Sequence[float]) -> float:
    """Return the largest share of the questions that patients never met can stand for (2.5%).

    With G_c patients of finding c, which has a share w_c of the questions: the largest
    sum w_c u_c of which prod (1 - u_c)^G_c >= 0.025, that all patients who were met are of other
    kinds. By Lagrange 1 - u_c = min(1, G_c / (w_c t)), for one t.

    >>> round(unseen_fraction([30], [1.0]), 4)
    0.1157
    >>> round(unseen_fraction([10, 10, 10], [1 / 3] * 3), 4)
    0.1157
    >>> round(unseen_fraction([300, 2], [0.5, 0.5]), 3)
    0.421
    """
    room = -math.log((1 - LEVEL) / 2)
    n, weighed, log_t = 0, 0.0, math.inf
    findings = sorted((math.log(g / w), g, w) for g, w in zip(patients, shares, strict=True))
    for log_ratio, g, _ in findings:
        if log_ratio >= log_t:
            break
        n, weighed = n + g, weighed + g * log_ratio
        log_t = (weighed + room) / n
    return sum(w * -math.expm1(min(log_ratio - log_t, 0.0)) for log_ratio, _, w in findings)


def _unseen(draws: Draws) -> float:
    labels, numbers, counts = np.unique(draws.labels, return_inverse=True, return_counts=True)
    pairs = np.unique(numbers.reshape(-1) * draws.n_asked + draws.patient_of)
    patients = np.bincount(pairs // draws.n_asked, minlength=len(labels))
    return unseen_fraction(patients.tolist(), (counts / len(draws.labels)).tolist())
