"""Geometric median of the admitted deltas, by the smoothed Weiszfeld algorithm.

Pillutla, Kakade and Harchaoui 2022 (Robust Aggregation for Federated Learning, IEEE TSP 70;
arXiv:1912.13445), algorithm 2 with equal weights. The geometric median is the z with the least
sum of distances, over all leaves together; each step is a mean that weighs the far ones less:

    w_i = 1 / max(nu, |z - delta_i|)        z <- sum_i w_i delta_i / sum_i w_i

Breakdown point (n-1)/2, rounded down. With f < n/2 hostile sites and any point c

    |z - c| <= 2 (n - f) / (n - 2f) max { |delta_i - c| : i honest }

since sum |z - delta_i| <= sum |c - delta_i| (Minsker 2015, arXiv:1308.1334, lemma 2.1). Cost:
O(n d) a step, in practice some tens of steps. It turns with the coordinates, as the median by
coordinates does not, and where all are honest it is nearly as good as the mean: with many
coordinates all honest updates are about as far from z, so they weigh nearly the same. What it
costs: a hospital that is unlike the others weighs less, and one with more noise for privacy too.

Three choices of ours. z starts at the coordinate-wise median, which lies among the honest values,
so that no hostile norm makes the way long. nu is relative, so that the answer scales with the
deltas: the paper's 1e-6 times the median distance from the start. And where the update nearest to z
has no greater sum of distances, it is the answer: steps towards a median that is itself an update
become ever shorter.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaward.arrays import Arrays
from metaward_server.aggregation.median import median_delta

SMOOTHING = 1.0e-6
"""nu of the paper's experiments; there in absolute terms."""
MAX_STEPS = 200
MOVED = 1.0e-7
"""A step shorter than this share of the median distance is the last: a float32's precision."""

Wide = dict[str, NDArray[np.float64]]


def geometric_median(deltas: Sequence[Arrays]) -> Arrays:
    """Return the geometric median, to about float32's precision.

    Args:
        deltas: At least one; all with the same names and shapes.
    """
    stacks: Wide = {  # (n, *shape)
        name: np.stack([delta[name] for delta in deltas]).astype(np.float64) for name in deltas[0]
    }
    start = median_delta(deltas)
    z: Wide = {name: leaf.astype(np.float64) for name, leaf in start.items()}
    scale = float(np.median(_distances(stacks, z)))
    if scale == 0.0:  # at least half of the updates are this very point: it is the median
        return start
    for _ in range(MAX_STEPS):
        moved = weiszfeld_step(stacks, z, smoothing=SMOOTHING * scale)
        length = np.sqrt(sum(float(np.square(moved[name] - z[name]).sum()) for name in z))
        z = moved
        if length <= MOVED * scale:
            break
    return _nearest_if_no_worse(stacks, z)


def weiszfeld_step(stacks: Wide, z: Wide, *, smoothing: float) -> Wide:
    """Return the mean of the updates, weighed by one over their distances from ``z``."""
    weights = 1.0 / np.maximum(_distances(stacks, z), smoothing)
    weights /= weights.sum()
    return {
        name: (stack * weights.reshape(-1, *[1] * (stack.ndim - 1))).sum(axis=0)
        for name, stack in stacks.items()
    }


def _nearest_if_no_worse(stacks: Wide, z: Wide) -> Arrays:
    distances = _distances(stacks, z)
    nearest = {name: stack[np.argmin(distances)] for name, stack in stacks.items()}
    best = nearest if _distances(stacks, nearest).sum() <= distances.sum() else z
    return {name: leaf.astype(np.float32) for name, leaf in best.items()}


def _distances(stacks: Wide, z: Wide) -> NDArray[np.float64]:
    squares = sum(
        np.square(stack - z[name]).reshape(len(stack), -1).sum(axis=1)
        for name, stack in stacks.items()
    )
    return np.asarray(np.sqrt(squares))
