"""The coordinate-wise trimmed mean."""

import numpy as np
import pytest
from scipy import stats

from metaward.study import TrimmedMeanSettings
from metaward_server.aggregation.trimmed_mean import trimmed_mean


def test_the_least_and_the_greatest_of_each_coordinate_are_cut_off() -> None:
    # 0.2 * 5 = 1 at either end: {1, 2, 6} and {-1, 0, 4} stay.
    rows = np.float32([[-1e9, 4], [1, -7], [2, -1], [6, 0], [1e9, 5]])
    found = trimmed_mean([{"w": row} for row in rows], fraction=0.2)
    np.testing.assert_array_equal(found["w"], [3, 1])


@pytest.mark.parametrize("n", [1, 4, 5, 9, 10, 100])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.49])
def test_it_is_the_trimmed_mean_of_scipy(n: int, fraction: float) -> None:
    rows = np.random.default_rng(n).standard_normal((n, 2, 3)).astype(np.float32)
    found = trimmed_mean([{"w": row} for row in rows], fraction=fraction)["w"]
    np.testing.assert_allclose(found, stats.trim_mean(rows.astype("f8"), fraction), rtol=1e-6)


@pytest.mark.parametrize("n", range(1, 101))
def test_as_many_are_cut_off_as_the_setting_says(n: int) -> None:
    settings = TrimmedMeanSettings(fraction=0.29)
    cut = settings.cut(n)
    values = np.zeros(n, np.float32)
    values[:cut] = 1e30  # all of these go
    assert trimmed_mean([{"w": v} for v in values], fraction=0.29)["w"] == 0
    if n > 2 * cut + 1:
        values[cut] = 1e30  # one more does not
        assert trimmed_mean([{"w": v} for v in values], fraction=0.29)["w"] > 0
