"""Coordinate-wise trimmed mean of the admitted deltas.

Yin, Chen, Ramchandran and Bartlett 2018, arXiv:1803.01498, definition 2. For each coordinate the
c = beta n (rounded down) least and the c greatest values are cut off, and the rest is averaged:

    delta[k] = (1 / (n - 2c)) sum { delta_i[k] that are left }

Breakdown point c: with f <= c hostile sites every coordinate lies between the least and the
greatest honest value. Cost: O(n d). Between mean and median: it keeps n - 2c of n values, so it
costs honest sites that differ less than the median does, and withstands fewer hostile ones.

The arithmetic is Flower's own function, behind its FedTrimmedAvg.
"""

from collections.abc import Sequence

import numpy as np
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

from metaward.arrays import Arrays


def trimmed_mean(deltas: Sequence[Arrays], *, fraction: float) -> Arrays:
    """Return the trimmed mean of each coordinate; sums are taken in float64.

    Args:
        deltas: At least one; all with the same names and shapes.
        fraction: beta, the share cut off at either end; in [0, 0.5).
    """
    return {
        name: np.asarray(
            trim_mean(np.stack([delta[name] for delta in deltas]).astype(np.float64), fraction),
            dtype=np.float32,
        )
        for name in deltas[0]
    }
