"""The mean of deltas: exact and equal-weight."""

import numpy as np

from metaward_server.aggregation.mean import mean_delta


def test_the_mean_weighs_every_site_equally() -> None:
    mean = mean_delta([{"w": np.float32([1, 2])}, {"w": np.float32([3, -2])}])
    np.testing.assert_array_equal(mean["w"], [2, 0])


def test_a_small_delta_is_not_lost_beside_large_ones_that_cancel() -> None:
    deltas = [{"w": np.float32([v])} for v in (1e8, 1.0, -1e8)]
    np.testing.assert_array_equal(mean_delta(deltas)["w"], np.float32([1 / 3]))


def test_one_site_is_its_own_mean_and_gets_a_copy() -> None:
    delta = {"w": np.float32([0.1]), "s": np.asarray(0.3, dtype=np.float32)}
    mean = mean_delta([delta])
    np.testing.assert_array_equal(mean["w"], delta["w"])
    assert mean["s"].shape == ()
    assert mean["w"] is not delta["w"]
