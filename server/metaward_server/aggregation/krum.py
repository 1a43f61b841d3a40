"""Krum and Multi-Krum: keep the updates that are close to many others.

Blanchard, El Mhamdi, Guerraoui and Stainer 2017, arXiv:1703.02757, section 4. With f hostile sites
of n assumed, the score of update i is the sum over its n - f - 2 closest others

    s(i) = sum_{j in closest(i)} |delta_i - delta_j|^2        Krum: delta = delta_{argmin s}

Multi-Krum is the mean of the m updates of least score, here the n - f - 2 for which the bound below
holds one by one. Of equal scores the first counts as less.

Breakdown point f, and n >= 2 f + 3 is needed. A hostile site can be the one that is kept, but then

    |delta - the nearest honest delta| <= D sqrt((n - f - 2) / (n - 2f - 1))

with D the greatest distance between two honest ones. For the n - f honest updates have scores of at
most (n - f - 2) D^2, so none of the n - f least scores is above that; and of the n - f - 2 updates
closest to a hostile one at least n - 2f - 1 are honest.

Cost: O(n^2 d). Krum pays most where honest hospitals differ: a round learns from a single one, and
with noise for privacy from a single noise, not from a mean over n. Multi-Krum pays less. Both leave
out, round after round, a hospital that is unlike the others or has more noise.

Flower's own Krum takes messages, not arrays; see docs/design/0005-robust-aggregation.md.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaward.arrays import Arrays
from metaward_server.aggregation.mean import mean_delta


def krum(deltas: Sequence[Arrays], *, hostile: int) -> Arrays:
    """Return a copy of the update with the least score.

    Args:
        deltas: At least 2 ``hostile`` + 3; all with the same names and shapes.
        hostile: f, the hostile sites assumed.
    """
    return mean_delta(_closest(deltas, hostile=hostile, keep=1))


def multi_krum(deltas: Sequence[Arrays], *, hostile: int) -> Arrays:
    """Return the mean of the n - f - 2 updates with the least scores; arguments as in Krum."""
    return mean_delta(_closest(deltas, hostile=hostile, keep=len(deltas) - hostile - 2))


def _closest(deltas: Sequence[Arrays], *, hostile: int, keep: int) -> list[Arrays]:
    scores = krum_scores(squared_distances(deltas), hostile=hostile)
    return [deltas[i] for i in sorted(np.argsort(scores, kind="stable")[:keep])]


def krum_scores(distances: NDArray[np.float64], *, hostile: int) -> NDArray[np.float64]:
    """Return s(i) for each update.

    Args:
        distances: Squared, between all pairs  # (n, n)
        hostile: f; n must be at least 2 f + 3.
    """
    n = len(distances)
    assert n >= 2 * hostile + 3
    # The distance to itself goes out by its place, not as the least: a twin is as close.
    others = distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    scores: NDArray[np.float64] = np.sort(others, axis=1)[:, : n - hostile - 2].sum(axis=1)
    return scores


def squared_distances(deltas: Sequence[Arrays]) -> NDArray[np.float64]:
    """Return the squared L2 distance between each two, over all leaves together  # (n, n).

    Differences are squared, in float64. The shorter |x|^2 + |y|^2 - 2xy would lose the distance
    between two honest updates in the rounding of a hostile one's square.
    """
    n = len(deltas)
    distances = np.zeros((n, n))
    for name in deltas[0]:
        wide = np.stack([delta[name].ravel() for delta in deltas]).astype(np.float64)  # (n, d)
        for i in range(n - 1):
            squares = np.square(wide[i + 1 :] - wide[i]).sum(axis=1)
            distances[i, i + 1 :] += squares
            distances[i + 1 :, i] += squares
    return distances
