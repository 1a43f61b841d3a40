"""The variance of a mean score of few-shot episodes, where patients come back in two roles.

One patient is a query in many episodes, and one of those that the model adapts on in many others.
The mean is an incomplete U-statistic (Hoeffding 1948; Blom 1976, Biometrika 63:573): an average of
a function of support and query patients over episodes drawn from all that could be. A new sample of
patients would move it by what each of them adds in both roles; that is estimated by leaving each
patient out (the jackknife of a U-statistic, Arvesen 1969, Ann. Math. Statist. 40:2076):

    as a query:   q_p = sum of p's residuals / n
    as a support: s_p = sum over episodes that adapted on p of R_e / (1 - c_p)

with the residuals of an episode R_e = sum (residual less the mean residual of that patient) / n,
and c_p the share of episodes that adapted on p. Which other episodes' luck is in s_p adds
c_p / (1 - c_p) * sum R_e^2 to the expected square, and is taken out again. With what episodes and
single answers add, by inclusion and exclusion (Cameron, Gelbach and Miller 2011, J. Business &
Economic Statistics 29(2)):

    V = k * sum over p (q_p + s_p)^2 - sum over p c_p / (1 - c_p) * sum R_e^2 + V_episode - V_both
    V_g = k_g * sum over clusters (sum of residuals in the cluster)^2 / n^2

Where an episode adapts on most of a finding's patients, what one of them does hardly shows, and s_p
is mostly luck. To first order it is the same for any number of images to adapt on (each counts for
one of them, and is among them as much more often), so that it may be taken from episodes with
fewer: :func:`support_role`.

``k`` makes up for the mean being estimated, with clusters of equal spread and weights w:
``sum w^2 / sum w^2 (1 - 2 w + sum w^2)``, which is G / (G - 1) for G equal ones.

V is never taken below V_query + V_episode - V_both, V_query or V_episode: the difference can come
out too small, or negative.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Draws:
    """Who was asked, in which episode, and on whom that episode adapted.

    Attributes:
        patients: (n,) patient of each query.
        episodes: (n,) episode of each query.
        labels: (n,) true label of each query.
        supports: (n_episodes, n_support) patients adapted on, episodes in ascending order. A
            patient may come twice.
    """

    patients: NDArray[np.integer]
    episodes: NDArray[np.integer]
    labels: NDArray[np.integer]
    supports: NDArray[np.integer]

    def __post_init__(self) -> None:
        assert len(self.patients) == len(self.episodes) == len(self.labels) > 0
        assert len(self.supports) == self.n_episodes

    @cached_property
    def episode_of(self) -> NDArray[np.int64]:
        """(n,) number of each query's episode, from 0."""
        return _numbered(self.episodes)

    @cached_property
    def patient_of(self) -> NDArray[np.int64]:
        """(n,) number of each query's patient, from 0, by name."""
        return _numbered(self.patients)

    @property
    def n_episodes(self) -> int:
        """Different episodes."""
        return int(self.episode_of.max()) + 1

    @property
    def n_asked(self) -> int:
        """Different patients that were a query."""
        return int(self.patient_of.max()) + 1

    @cached_property
    def adapted_on(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.integer]]:
        """Episode and number of each patient that it adapted on, once each; and the names."""
        names, numbers = np.unique(self.supports, return_inverse=True)
        episodes = np.repeat(np.arange(self.n_episodes), self.supports.shape[1])
        pairs = np.unique(episodes * max(len(names), 1) + numbers.reshape(-1))
        return pairs // max(len(names), 1), pairs % max(len(names), 1), names

    @cached_property
    def asked_share(self) -> NDArray[np.float64]:
        """(n_asked,) each patient's share of all queries."""
        return np.asarray(np.bincount(self.patient_of) / len(self.patient_of))

    @cached_property
    def support_share(self) -> NDArray[np.float64]:
        """(n_adapted_on,) c: share of the episodes that adapted on each patient, by name."""
        _, numbers, names = self.adapted_on
        return np.asarray(np.bincount(numbers, minlength=len(names)) / self.n_episodes)

    @property
    def effective_patients(self) -> float:
        """How many patients of equal weight would say as much, in the role that says less.

        The effective number of clusters of Carter, Schnepel and Steigerwald 2017 (Review of
        Economics and Statistics 99:698), with weights alone: (sum w^2)^2 / sum w^4.
        """
        shares = [share for share in (self.asked_share, self.support_share) if len(share)]
        return min(float(np.sum(w**2) ** 2 / np.sum(w**4)) for w in shares)


@dataclass(frozen=True)
class SupportRole:
    """What patients add to a mean by being adapted on.

    Attributes:
        patients: (m,) names, ascending.
        influence: (m,) s_p.
        luck: What single episodes add to the sum of the squares of ``influence``.
    """

    patients: NDArray[np.integer]
    influence: NDArray[np.float64]
    luck: float


def support_role(residuals: NDArray[np.float64], draws: Draws) -> SupportRole:
    """Return what patients add by being adapted on, from scores' residuals, (n,)."""
    of_patient = np.bincount(draws.patient_of, weights=residuals) / np.bincount(draws.patient_of)
    own = residuals - of_patient[draws.patient_of]
    of_episode = np.bincount(draws.episode_of, weights=own) / len(residuals)
    episodes, numbers, names = draws.adapted_on
    share = draws.support_share
    left = np.where(share < 1, 1 - share, np.inf)  # who is in all supports shows no difference
    sums = np.bincount(numbers, of_episode[episodes], minlength=len(names))
    luck = float(np.sum(share / left) * np.sum(of_episode**2))
    return SupportRole(names, sums / left, luck)


def variance_of_mean(
    residuals: NDArray[np.float64], draws: Draws, adapted: SupportRole | None = None
) -> float:
    """Return the variance of the mean of scores, by their residuals, (n,).

    Needs two patients that were asked, and two episodes.

    Args:
        residuals: Scores less their mean.
        draws: Who was asked, and on whom the model had adapted.
        adapted: What patients add by being adapted on; left out: as these scores show it.
    """
    patients, episodes = draws.patient_of, draws.episode_of
    by_query, by_episode, by_both = (
        _one_way(residuals, clusters)
        for clusters in (patients, episodes, _numbered(patients * draws.n_episodes + episodes))
    )
    role = support_role(residuals, draws) if adapted is None else adapted
    asked = np.unique(draws.patients)
    everybody = np.union1d(asked, role.patients)
    both_roles = np.zeros(len(everybody))
    both_roles[np.searchsorted(everybody, role.patients)] = role.influence
    both_roles[np.searchsorted(everybody, asked)] += np.bincount(patients, residuals) / len(
        residuals
    )
    by_patient = _small_sample(draws.asked_share) * float(np.sum(both_roles**2)) - role.luck
    return max(
        by_patient + by_episode - by_both, by_query + by_episode - by_both, by_query, by_episode
    )


def _one_way(residuals: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    sums = np.bincount(clusters, weights=residuals) / len(residuals)
    return _small_sample(np.bincount(clusters) / len(clusters)) * float(np.sum(sums**2))


def _small_sample(weights: NDArray[np.float64]) -> float:
    squares = weights**2
    return float(np.sum(squares) / np.sum(squares * (1 - 2 * weights + np.sum(squares))))


def _numbered(clusters: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return clusters renumbered 0..n-1."""
    _, numbered = np.unique(clusters, return_inverse=True)
    return np.asarray(numbered, dtype=np.int64).reshape(-1)
