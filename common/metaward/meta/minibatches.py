"""Mini-batches that go through all images, in a new order at every pass."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from metaward.episodes import Examples


def batch_indices(
    n: int, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Give ``steps`` index arrays of length ``min(batch_size, n)`` over 0..n-1.

    A pass goes through a shuffled order; what is left at its end and does not fill a batch is
    carried over into the next pass, so that a batch across two passes may hold an image twice.
    """
    size = min(batch_size, n)
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        batch, waiting = waiting[:size], waiting[size:]
        yield batch


def minibatches(
    examples: Examples, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[Examples]:
    """Give ``steps`` mini-batches of the examples; see :func:`batch_indices`."""
    for rows in batch_indices(len(examples.labels), batch_size, steps, rng):
        yield Examples(examples.images[rows], examples.labels[rows], examples.n_way)
