"""What every rule promises: blind to order, exact where all agree, bounded by the honest."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

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
from metaward_server.aggregation.compose import aggregate
from metaward_server.aggregation.geometric_median import geometric_median
from metaward_server.aggregation.median import median_delta
from metaward_server.aggregation.trimmed_mean import trimmed_mean

ROBUST: list[AggregationSettings] = [
    MedianSettings(),
    TrimmedMeanSettings(fraction=0.3),
    KrumSettings(hostile=2),
    MultiKrumSettings(hostile=2),
    GeometricMedianSettings(),
]
ALL = [MeanSettings(), *ROBUST]
by_name = pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.name)
robust_by_name = pytest.mark.parametrize("settings", ROBUST, ids=lambda settings: settings.name)
Rows = NDArray[np.float32]


def as_deltas(rows: Rows) -> list[Arrays]:
    """Give each row of four numbers as a delta of three leaves, one of them a scalar."""
    return [
        {"w": row[:2].copy(), "b": row[2:3].reshape(1, 1).copy(), "s": np.asarray(row[3])}
        for row in rows
    ]


def as_row(delta: Arrays) -> Rows:
    return np.concatenate([delta[name].ravel() for name in ("w", "b", "s")])


def bits(delta: Arrays) -> dict[str, bytes]:
    return {name: leaf.tobytes() for name, leaf in delta.items()}


def rows_of(n: int, limit: float = 100.0) -> st.SearchStrategy[Rows]:
    """Give rows without -0.0, which a sum turns into 0.0."""
    values = st.floats(-limit, limit, width=32)
    return arrays(np.float32, (n, 4), elements=values).map(lambda rows: rows + np.float32(0))


@by_name
@given(rows=rows_of(7), order=st.permutations(range(7)))
def test_the_order_of_the_sites_changes_no_bit(
    settings: AggregationSettings, rows: Rows, order: list[int]
) -> None:
    deltas = as_deltas(rows)
    permuted = [deltas[i] for i in order]
    assert bits(aggregate(settings, permuted)) == bits(aggregate(settings, deltas))


def test_the_order_changes_no_bit_of_a_sum_that_rounds() -> None:
    # In float64, 2^60 + 1 - 2^60 is 0 and 2^60 - 2^60 + 1 is 1.
    deltas = [{"w": np.float32([value])} for value in (2.0**60, 1.0, -(2.0**60))]
    means = {aggregate(MeanSettings(), order)["w"].tobytes() for order in permutations(deltas)}
    assert len(means) == 1


@by_name
@given(row=rows_of(1), n=st.integers(7, 12))
def test_where_all_sites_agree_their_answer_comes_back_to_the_bit(
    settings: AggregationSettings, row: Rows, n: int
) -> None:
    deltas = as_deltas(np.repeat(row, n, axis=0))
    assert bits(aggregate(settings, deltas)) == bits(deltas[0])


@given(row=rows_of(1))
def test_of_one_site_every_rule_that_can_work_with_one_gives_its_answer(row: Rows) -> None:
    (delta,) = as_deltas(row)
    assert bits(aggregate(MeanSettings(), [delta])) == bits(delta)
    assert bits(median_delta([delta])) == bits(delta)
    assert bits(trimmed_mean([delta], fraction=0.4)) == bits(delta)
    assert bits(geometric_median([delta])) == bits(delta)


@by_name
@given(rows=rows_of(7))
def test_names_shapes_and_dtype_stay_and_no_delta_is_changed(
    settings: AggregationSettings, rows: Rows
) -> None:
    deltas = as_deltas(rows)
    before = [bits(delta) for delta in deltas]
    result = aggregate(settings, deltas)
    assert {name: leaf.shape for name, leaf in result.items()} == {"w": (2,), "b": (1, 1), "s": ()}
    assert all(leaf.dtype == np.float32 for leaf in result.values())
    assert [bits(delta) for delta in deltas] == before
    assert not any(result["w"] is delta["w"] for delta in deltas)


@robust_by_name
@given(honest=rows_of(5, 10.0), hostile=rows_of(2, 2.0**100), shift=st.floats(-1e3, 1e3, width=32))
def test_two_hostile_sites_of_seven_stay_bounded_by_the_honest_whatever_they_send(
    settings: AggregationSettings, honest: Rows, hostile: Rows, shift: float
) -> None:
    honest = honest + np.float32(shift)
    row = as_row(aggregate(settings, as_deltas(np.concatenate([honest, hostile]))))
    slack = 1e-5 * float(np.abs(honest).max() + 1)
    assert distance_beyond(settings, row, honest, n_hostile=2) <= slack


def distance_beyond(
    settings: AggregationSettings, row: Rows, honest: Rows, *, n_hostile: int
) -> float:
    """Return by how much the result is beyond the bound in the rule's own file."""
    n, f = len(honest) + n_hostile, n_hostile
    wide, z = honest.astype(np.float64), row.astype(np.float64)
    to_honest = np.linalg.norm(wide - z, axis=1)
    diameter = max(float(np.linalg.norm(wide - one, axis=1).max()) for one in wide)
    krum_bound = diameter * math.sqrt((n - f - 2) / (n - 2 * f - 1))
    match settings:
        case MedianSettings() | TrimmedMeanSettings():  # the box of the honest
            return float(np.maximum(wide.min(axis=0) - z, z - wide.max(axis=0)).max())
        case KrumSettings():
            return float(to_honest.min()) - krum_bound
        case MultiKrumSettings():  # a mean of updates of which each is near an honest one
            centre = wide.mean(axis=0)
            return float(np.linalg.norm(z - centre)) - krum_bound - diameter
        case _:
            centre = wide.mean(axis=0)
            radius = float(np.linalg.norm(wide - centre, axis=1).max())
            return float(np.linalg.norm(z - centre)) - 2 * (n - f) / (n - 2 * f) * radius


def test_the_mean_breaks_down_with_one_hostile_site() -> None:
    rows = np.zeros((7, 4), np.float32)
    rows[0] = 1e30
    assert as_row(aggregate(MeanSettings(), as_deltas(rows))).min() > 1e29


@robust_by_name
def test_one_update_less_than_a_rule_needs_is_our_own_mistake(
    settings: AggregationSettings,
) -> None:
    least = settings.least_updates()
    aggregate(settings, as_deltas(np.ones((least, 4), np.float32)))
    with pytest.raises(AssertionError):
        aggregate(settings, as_deltas(np.ones((least - 1, 4), np.float32)))


@robust_by_name
def test_with_as_few_updates_as_a_rule_accepts_it_withstands_a_hostile_one(
    settings: AggregationSettings,
) -> None:
    rows = np.ones((settings.least_updates(), 4), np.float32)
    rows[0] = 1e30
    np.testing.assert_allclose(as_row(aggregate(settings, as_deltas(rows))), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        (MeanSettings(), 1),
        (MedianSettings(), 3),
        (GeometricMedianSettings(), 3),
        (TrimmedMeanSettings(fraction=0.2), 5),  # 0.2 * 5 = 1 is cut off at either end
        (TrimmedMeanSettings(fraction=0.3), 4),  # 0.3 * 4 = 1.2
        (TrimmedMeanSettings(fraction=0.49), 3),
        (KrumSettings(hostile=1), 5),
        (MultiKrumSettings(hostile=3), 9),
    ],
)
def test_each_rule_says_how_many_updates_it_needs(
    settings: AggregationSettings, least: int
) -> None:
    assert settings.least_updates() == least
