"""From a study's setting to the rule, and the order in which a rule sees the deltas."""

import hashlib
from collections.abc import Sequence
from typing import assert_never

import numpy as np

from metaward.arrays import Arrays
from metaward.study import (
    AggregationSettings,
    GeometricMedianSettings,
    KrumSettings,
    MeanSettings,
    MedianSettings,
    MultiKrumSettings,
    TrimmedMeanSettings,
)
from metaward_server.aggregation.geometric_median import geometric_median
from metaward_server.aggregation.krum import krum, multi_krum
from metaward_server.aggregation.mean import mean_delta
from metaward_server.aggregation.median import median_delta
from metaward_server.aggregation.trimmed_mean import trimmed_mean


def aggregate(settings: AggregationSettings, deltas: Sequence[Arrays]) -> Arrays:
    """Return one delta for the round: direction to ADD to theta.

    Sites weigh equally: a weight by the number of images would leak the number, and a hostile site
    would choose its own. A rule sees the deltas in an order given by their own bytes, so that
    neither the order of the replies nor the nodes' numbers (random on some grids) change one bit.

    Args:
        settings: Which rule, with its constants.
        deltas: At least ``settings.least_updates()``; finite, with the same names and shapes.
    """
    assert len(deltas) >= settings.least_updates()
    ordered = sorted(deltas, key=_digest)
    match settings:
        case MeanSettings():
            return mean_delta(ordered)
        case MedianSettings():
            return median_delta(ordered)
        case TrimmedMeanSettings():
            return trimmed_mean(ordered, fraction=settings.fraction)
        case KrumSettings():
            return krum(ordered, hostile=settings.hostile)
        case MultiKrumSettings():
            return multi_krum(ordered, hostile=settings.hostile)
        case GeometricMedianSettings():
            return geometric_median(ordered)
        case _:
            assert_never(settings)


def _digest(delta: Arrays) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(delta):
        digest.update(np.ascontiguousarray(delta[name]).tobytes())
    return digest.digest()
