"""Which nodes take part in a round."""

from collections.abc import Iterable

import numpy as np

SAMPLING_STREAM = 0x73616D706C65
"""Keeps this stream apart from others of the same seed and round (ASCII "sample")."""


def sample_nodes(nodes: Iterable[int], *, count: int, seed: int, round_index: int) -> list[int]:
    """Return the nodes of a round, ascending; a function of its arguments alone.

    Args:
        nodes: Nodes that are there now, in any order.
        count: How many to ask, uniformly and without replacement; 0, or more than there are, asks
            all.
        seed: The study's.
        round_index: From 0.
    """
    present = sorted(set(nodes))
    if count == 0 or count >= len(present):
        return present
    rng = np.random.default_rng(np.random.SeedSequence([seed, round_index, SAMPLING_STREAM]))
    # Places are drawn: numpy would round nodes' numbers of 64 bits, as Flower's are, to floats.
    places = rng.choice(len(present), size=count, replace=False)
    return sorted(present[place] for place in places)
