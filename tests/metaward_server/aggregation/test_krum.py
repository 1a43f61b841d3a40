"""Krum and Multi-Krum."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum

from metaward.arrays import Arrays
from metaward_server.aggregation.krum import krum, krum_scores, multi_krum, squared_distances


def line(*values: float) -> list[Arrays]:
    return [{"w": np.float32([value])} for value in values]


def test_scores_of_five_points_on_a_line() -> None:
    # f = 1, so the n - f - 2 = 2 closest others count.
    # 0: 1 + 4;  1: 1 + 1;  2: 1 + 4;  4: 4 + 9;  100: 96^2 + 98^2
    scores = krum_scores(squared_distances(line(0, 1, 2, 4, 100)), hostile=1)
    np.testing.assert_array_equal(scores, [5, 2, 5, 13, 96**2 + 98**2])


def test_krum_is_the_update_of_least_score() -> None:
    np.testing.assert_array_equal(krum(line(0, 1, 2, 4, 100), hostile=1)["w"], [1])


def test_multi_krum_is_the_mean_of_the_n_minus_f_minus_2_of_least_score() -> None:
    # The two of least score: 1, and of 0 and 2 with equal scores the first.
    np.testing.assert_array_equal(multi_krum(line(0, 1, 2, 4, 100), hostile=1)["w"], [0.5])


def test_distances_are_over_all_leaves_together() -> None:
    deltas = [
        {"w": np.float32([0, 0]), "s": np.asarray(np.float32(0))},
        {"w": np.float32([1, 2]), "s": np.asarray(np.float32(2))},
    ]
    np.testing.assert_array_equal(squared_distances(deltas), [[0, 9], [9, 0]])


def test_a_twin_counts_as_close_and_not_as_oneself() -> None:
    scores = krum_scores(squared_distances(line(0, 0, 0, 5, 5)), hostile=1)
    np.testing.assert_array_equal(scores, [0, 0, 0, 25, 25])


def test_a_hostile_norm_does_not_round_away_the_distances_between_the_honest() -> None:
    # |x|^2 + |y|^2 - 2xy in float32 gives all of these the distance 0 from one another.
    deltas = line(1e4 + 1, 1e4 + 2, 1e4 + 2.5, 1e4 + 4, 1e15)
    np.testing.assert_array_equal(krum(deltas, hostile=1)["w"], np.float32([1e4 + 2]))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("hostile", [1, 2])
def test_krum_chooses_as_flower_does_where_flowers_arithmetic_is_exact_enough(
    seed: int, hostile: int
) -> None:
    rows = np.random.default_rng(seed).standard_normal((9, 6)).astype(np.float32)
    rows[:hostile] *= 10
    contents = [RecordDict({"a": ArrayRecord({"w": Array(row)})}) for row in rows]
    (theirs,) = select_multikrum(contents, hostile, 1)
    ours = krum([{"w": row} for row in rows], hostile=hostile)
    np.testing.assert_array_equal(ours["w"], theirs.array_records["a"]["w"].numpy())
