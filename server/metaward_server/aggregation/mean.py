"""The mean of the admitted deltas.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1, with equal weights:

    delta = (1/n) sum_i delta_i

Breakdown point 0: one hostile site of any n moves the mean as far as admission lets its norm be.
Cost: O(n d) for n updates of d numbers. It is the rule of least variance where all are honest.
"""

from collections.abc import Sequence

import numpy as np

from metaward.arrays import Arrays


def mean_delta(deltas: Sequence[Arrays]) -> Arrays:
    """Return the equal-weight mean; sums are taken in float64, in the order given.

    Args:
        deltas: At least one; all with the same names and shapes.
    """
    return {
        name: np.asarray(
            np.sum([delta[name] for delta in deltas], axis=0, dtype=np.float64) / len(deltas),
            dtype=np.float32,
        )
        for name in deltas[0]
    }
