"""The mean of the admitted deltas."""

import hashlib
from collections.abc import Sequence

import numpy as np

from metaward.arrays import Arrays


def mean_delta(deltas: Sequence[Arrays]) -> Arrays:
    """Return the equal-weight mean: direction to ADD to theta.

    Sites weigh equally: a weight by the number of images would leak the number. Sums are taken in
    float64, in an order given by the deltas' own bytes, so that neither the order of the replies
    nor the nodes' numbers (random on some grids) change one bit of the result.

    Args:
        deltas: At least one; all with the same names and shapes.
    """
    assert deltas
    ordered = sorted(deltas, key=_digest)
    return {
        name: np.asarray(
            np.sum([delta[name] for delta in ordered], axis=0, dtype=np.float64) / len(ordered),
            dtype=np.float32,
        )
        for name in ordered[0]
    }


def _digest(delta: Arrays) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(delta):
        digest.update(np.ascontiguousarray(delta[name]).tobytes())
    return digest.digest()
