"""The geometric median, by the smoothed Weiszfeld algorithm."""

import numpy as np
import pytest
from scipy import optimize

from metaward.arrays import Arrays
from metaward_server.aggregation.geometric_median import geometric_median, weiszfeld_step


def points(*rows: tuple[float, ...]) -> list[Arrays]:
    return [{"w": np.float32(row)} for row in rows]


def test_on_a_line_it_is_the_median() -> None:
    found = geometric_median(points((0.0,), (1.0,), (2.0,), (50.0,), (1e9,)))["w"]
    np.testing.assert_allclose(found, [2.0], atol=1e-4)


def test_in_a_square_it_is_the_crossing_of_the_diagonals() -> None:
    found = geometric_median(points((0, 0), (4, 0), (4, 4), (0, 4)))["w"]
    np.testing.assert_allclose(found, [2, 2], atol=1e-6)


def test_in_a_triangle_it_is_fermats_point() -> None:
    # Equilateral, from which all corners are seen under 120 degrees: the centre.
    found = geometric_median(points((0, 0), (2, 0), (1, np.sqrt(3))))["w"]
    np.testing.assert_allclose(found, [1, 1 / np.sqrt(3)], atol=1e-6)


def test_a_point_that_is_half_of_all_is_the_median() -> None:
    found = geometric_median(points((1, 2), (1, 2), (1, 2), (9, 9), (1e30, -1e30)))["w"]
    np.testing.assert_array_equal(found, np.float32([1, 2]))


def test_one_step_is_the_mean_weighed_by_one_over_the_distance() -> None:
    # From 0: distances 1 and 3, weights 1 and 1/3; (1 * 1 + 1/3 * -3) / (4/3) = 0.
    stacks = {"w": np.float64([[1.0], [-3.0]])}
    step = weiszfeld_step(stacks, {"w": np.float64([0.0])}, smoothing=1e-6)
    np.testing.assert_allclose(step["w"], [0.0], atol=1e-15)
    # Smoothing 2 makes the near one weigh 1/2: (1/2 - 1) / (5/6) = -0.6.
    step = weiszfeld_step(stacks, {"w": np.float64([0.0])}, smoothing=2.0)
    np.testing.assert_allclose(step["w"], [-0.6])


@pytest.mark.parametrize("seed", range(10))
def test_no_search_finds_a_lesser_sum_of_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((9, 3))
    rows[:3] = rows[:3] * 20 + 30

    def cost(z: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return float(np.linalg.norm(rows - z, axis=1).sum())

    found = geometric_median(points(*rows))["w"].astype(np.float64)
    best = optimize.minimize(cost, found, method="Nelder-Mead", options={"xatol": 1e-8})
    assert cost(found) <= best.fun * (1 + 1e-6)


def test_a_median_that_is_itself_an_update_is_found_to_the_last_bit() -> None:
    # From the corner of 120 degrees the pulls of the others balance: steps towards it stall.
    corner = (0.0, 0.0)
    rows = [corner, (1.0, 0.0), (-0.5, np.sqrt(3) / 2)]
    np.testing.assert_array_equal(geometric_median(points(*rows))["w"], np.float32(corner))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_answer_scales_with_the_deltas(scale: float) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    small = geometric_median([{"w": row} for row in rows])["w"]
    large = geometric_median([{"w": row * np.float32(scale)} for row in rows])["w"]
    np.testing.assert_allclose(large, small * scale, rtol=1e-4, atol=1e-5 * scale)


def test_leaves_are_one_vector() -> None:
    rows = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    whole = geometric_median([{"w": row} for row in rows])["w"]
    parts = geometric_median([{"a": row[:1], "b": row[1:].reshape(3, 1)} for row in rows])
    np.testing.assert_allclose(np.concatenate([parts["a"], parts["b"].ravel()]), whole, rtol=1e-5)
