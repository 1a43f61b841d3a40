"""How far one unit can move a sum, and what following the median costs."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metaward_client.privacy.clip_norm import (
    ROUNDING_MARGIN,
    centred_bits,
    clip_factors,
    next_norm,
    noise_shares,
)

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
NORMS = st.lists(st.one_of(st.floats(0, 1e300), ANY_FLOAT.map(abs)), max_size=20)
C = st.floats(1e-6, 1e6)


def test_short_vectors_stay_and_long_ones_are_shortened_to_the_norm() -> None:
    factors = clip_factors(np.array([0.0, 1.0, 2.0, 8.0]), 2.0) / ROUNDING_MARGIN
    np.testing.assert_allclose(factors, [1, 1, 1, 0.25], rtol=1e-15)


def test_a_norm_that_is_no_number_counts_as_zero_and_changes_no_other() -> None:
    factors = clip_factors(np.array([4.0, np.nan, np.inf, 4.0]), 2.0)
    np.testing.assert_array_equal(factors[[1, 2]], 0)
    np.testing.assert_array_equal(factors[[0, 3]], clip_factors(np.array([4.0, 4.0]), 2.0))


@given(NORMS, C)
def test_no_clipped_norm_is_above_the_bound(norms: list[float], bound: float) -> None:
    values = np.asarray(norms, dtype=np.float64)
    factors = clip_factors(values, bound)
    assert np.isfinite(factors).all()
    clipped = factors[np.isfinite(values)] * values[np.isfinite(values)]
    assert (clipped <= bound).all()


@example([1.0], math.inf, 1.0)
@example([1.0], math.nan, 1.0)
@given(NORMS, ANY_FLOAT.map(abs), C)
def test_one_unit_moves_the_sum_of_bits_by_half(norms: list[float], new: float, c: float) -> None:
    before = centred_bits(np.asarray(norms, dtype=np.float64), c)
    after = centred_bits(np.asarray([*norms, new], dtype=np.float64), c)
    assert abs(after - before) == (0.5 if math.isfinite(new) else 0)


def test_without_adaptation_all_noise_goes_to_the_vectors() -> None:
    shares = noise_shares(1.3, adaptive=False)
    assert (shares.vectors, shares.bits) == (1.3, math.inf)


@pytest.mark.parametrize("z", [0.3, 1.0, 7.5])
def test_vectors_and_bits_together_cost_what_the_ledger_charges(z: float) -> None:
    shares = noise_shares(z, adaptive=True)
    assert shares.vectors**-2 + (2 * shares.bits) ** -2 == pytest.approx(z**-2, rel=1e-14)
    assert shares.vectors == pytest.approx(1.05 * z)


def test_the_norm_falls_where_most_are_below_it_and_rises_where_most_are_above() -> None:
    assert next_norm(1.0, 5.0, 10.0) == pytest.approx(math.exp(-0.1))  # all below
    assert next_norm(1.0, -5.0, 10.0) == pytest.approx(math.exp(0.1))  # all above
    assert next_norm(1.0, 0.0, 10.0) == 1.0


@pytest.mark.parametrize("bits", [-1e9, 1e9, -math.inf, math.inf])
def test_no_noise_moves_the_norm_by_more_than_a_tenth(bits: float) -> None:
    assert 0.9 < next_norm(1.0, bits, 1.0) < 1.11


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_norm_arrives_at_the_median(start: float) -> None:
    norms = np.random.default_rng(0).lognormal(1.0, 0.5, 1001)
    noise = np.random.default_rng(1)
    bound = start
    for _ in range(300):
        bits = centred_bits(norms, bound) + noise.normal(0, 3.3)
        bound = next_norm(bound, bits, len(norms))
    assert bound == pytest.approx(np.median(norms), rel=0.05)
