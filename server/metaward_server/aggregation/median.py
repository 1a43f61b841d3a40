"""Coordinate-wise median of the admitted deltas.

Yin, Chen, Ramchandran and Bartlett 2018, arXiv:1803.01498, definition 1. For each coordinate k

    delta[k] = median { delta_i[k] : i = 1..n }        (n even: the mean of the two in the middle)

Breakdown point (n-1)/2, rounded down: with f < n/2 hostile sites every coordinate lies between the
least and the greatest honest value. Cost: O(n d). Where honest sites differ, it is biased towards
what most of them share, coordinate by coordinate: a finding at a minority of hospitals weighs less
than in a mean, and for normal noise the variance is up to pi/2 times that of the mean.

As Flower's FedMedian has it (numpy's median), but in float64.
"""

from collections.abc import Sequence

import numpy as np

from metaward.arrays import Arrays


def median_delta(deltas: Sequence[Arrays]) -> Arrays:
    """Return the median of each coordinate.

    Args:
        deltas: At least one; all with the same names and shapes.
    """
    return {
        name: np.asarray(
            np.median(np.stack([delta[name] for delta in deltas]).astype(np.float64), axis=0),
            dtype=np.float32,
        )
        for name in deltas[0]
    }
