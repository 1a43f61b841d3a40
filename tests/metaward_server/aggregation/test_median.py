"""The coordinate-wise median."""

import numpy as np
import pytest

from metaward_server.aggregation.median import median_delta


def test_each_coordinate_has_its_own_median() -> None:
    rows = np.float32([[1, 9], [2, 7], [5, 8]])
    np.testing.assert_array_equal(median_delta([{"w": row} for row in rows])["w"], [2, 8])


def test_of_an_even_number_it_is_the_mean_of_the_two_in_the_middle() -> None:
    rows = np.float32([[1], [2], [4], [1e30]])
    np.testing.assert_array_equal(median_delta([{"w": row} for row in rows])["w"], [3])


@pytest.mark.parametrize("n", range(1, 12))
def test_it_is_the_median_of_numpy(n: int) -> None:
    rows = np.random.default_rng(n).standard_normal((n, 2, 3)).astype(np.float32)
    found = median_delta([{"w": row} for row in rows])["w"]
    np.testing.assert_array_equal(found, np.median(rows.astype(np.float64), axis=0).astype("f4"))
