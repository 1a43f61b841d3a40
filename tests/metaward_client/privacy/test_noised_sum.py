"""A sum of clipped vectors plus noise: how much, how often, and over what."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaward.errors import PrivacyError
from metaward_client.privacy.clip_norm import ROUNDING_MARGIN
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums
from metaward_client.privacy.terms import Terms
from private_site import KnownSource

SHAPES: dict[str, tuple[int, ...]] = {"body": (2,), "head": (1, 1)}
TERMS = Terms("dp-sgd", 2.0, 0.5, 2, 4.0, 10.0)
SILENT = KnownSource()


def sums(terms: Terms = TERMS, source: KnownSource = SILENT) -> NoisedSums:
    return NoisedSums(terms, source, terms.max_grad_norm)


def total(*vectors: tuple[float, float, float], norm: float = 4.0) -> ClippedSum:
    """Each vector: two values of the body, one of the head; all added as one batch."""
    added = ClippedSum.empty(SHAPES, norm)
    rows = np.array(vectors, dtype=np.float32).reshape(-1, 3)
    added.add({"body": rows[:, :2], "head": rows[:, 2:].reshape(-1, 1, 1)})
    return added


def flat(vectors: ClippedSum) -> np.ndarray:
    return np.concatenate([leaf.ravel() for leaf in vectors.sums.values()])


def test_the_norm_is_over_body_and_head_together() -> None:
    # (2, 4, 4) has norm 6, though no leaf is longer than 4.5: it is shortened by 4 / 6
    np.testing.assert_allclose(flat(total((2, 4, 4))), np.array([2, 4, 4]) * 4 / 6, rtol=2e-4)
    np.testing.assert_allclose(flat(total((1, 2, 2))), [1, 2, 2], rtol=2e-4)


def test_each_unit_is_clipped_and_not_their_sum() -> None:
    both = flat(total((30, 0, 0), (-2, 0, 0)))
    np.testing.assert_allclose(both, [4 - 2, 0, 0], rtol=2e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_unit_that_is_not_finite_adds_zero_and_leaves_the_others(bad: float) -> None:
    with_it = total((3, 0, 0), (bad, 1, 0), (0, 0, 9))
    np.testing.assert_array_equal(flat(with_it), flat(total((3, 0, 0), (0, 0, 9))))
    assert with_it.bits == total((3, 0, 0), (0, 0, 9)).bits


def test_a_huge_unit_is_shortened_like_any_other() -> None:
    np.testing.assert_allclose(flat(total((1e30, 0, 0))), [4, 0, 0], rtol=2e-4)


def weighted(weights: list[float]) -> ClippedSum:
    """(6, 0, 0) and (0, 1, 0), clipped to 4 and then weighed."""
    added = ClippedSum.empty(SHAPES, 4.0)
    vectors = {"body": np.float32([[6, 0], [0, 1]]), "head": np.zeros((2, 1, 1), np.float32)}
    added.add(vectors, np.array(weights))
    return added


def test_a_weight_is_multiplied_with_the_clipped_vector() -> None:
    # half of what (6, 0, 0) is clipped to, not what half of it would be clipped to
    np.testing.assert_allclose(flat(weighted([0.5, 0.25])), [2, 0.25, 0], rtol=2e-4)
    np.testing.assert_array_equal(flat(weighted([1, 1])), flat(total((6, 0, 0), (0, 1, 0))))


def test_a_weight_leaves_the_bits_as_they_are() -> None:
    assert weighted([0.5, 0.5]).bits == weighted([0, 1]).bits == 0.0  # one clipped, one not


def test_a_weight_of_zero_leaves_the_others() -> None:
    np.testing.assert_array_equal(flat(weighted([0, 1])), flat(total((0, 1, 0))))


@pytest.mark.parametrize("bad", [1 + 1e-9, 2.0, -1e-9, np.inf, np.nan])
def test_a_weight_by_which_a_vector_could_exceed_the_norm_is_refused(bad: float) -> None:
    with pytest.raises(PrivacyError, match="a weight outside"):
        weighted([0.5, bad])


def test_sums_are_in_float64() -> None:
    one = total((1, 0, 0))
    for _ in range(3):
        one.add({"body": np.float32([[1e-9, 0]]), "head": np.zeros((1, 1, 1), np.float32)})
    assert one.sums["body"].dtype == np.float64
    assert one.sums["body"][0] == pytest.approx((1 + 3e-9) * ROUNDING_MARGIN, abs=1e-12)


ANYTHING = arrays(
    np.float64, st.tuples(st.integers(0, 5), st.just(3)), elements=st.floats(width=64)
)
"""Up to five units, among them not-a-number, infinities and numbers that overflow when squared."""


@settings(max_examples=300, deadline=None)
@given(ANYTHING, arrays(np.float64, (1, 3), elements=st.floats(width=64)), st.floats(1e-3, 1e3))
def test_one_unit_more_moves_the_sum_by_at_most_the_norm(
    others: np.ndarray, new: np.ndarray, norm: float
) -> None:
    def summed(rows: np.ndarray) -> ClippedSum:
        added = ClippedSum.empty(SHAPES, norm)
        added.add({"body": rows[:, :2], "head": rows[:, 2:].reshape(-1, 1, 1)})
        return added

    without, with_it = summed(others), summed(np.concatenate([others, new]))
    assert np.isfinite(flat(with_it)).all()
    assert np.linalg.norm(flat(with_it) - flat(without)) <= norm
    assert abs(with_it.bits - without.bits) <= 0.5


def test_the_noise_has_the_size_that_is_charged() -> None:
    shapes = {"w": (100_000,)}
    terms = replace(TERMS, noise_multiplier=0.7)
    empty = ClippedSum.empty(shapes, 4.0)
    noised = NoisedSums(terms, os_noise(), 4.0).release(empty, shapes)["w"] * terms.divisor
    assert noised.std() == pytest.approx(0.7 * 4.0, rel=0.02)
    assert abs(noised.mean()) < 0.06


def test_the_sum_over_nobody_is_noised_like_any_other() -> None:
    source = KnownSource(scale=1.0)
    released = sums(source=source).release(ClippedSum.empty(SHAPES, 4.0), SHAPES)
    assert source.asked == [2, 1]
    assert all(leaf.all() for leaf in released.values())


def test_the_divisor_is_the_constant_of_the_terms_whoever_was_drawn() -> None:
    one = sums().release(total((1, 0, 0)), SHAPES)
    two = sums().release(total((1, 0, 0), (1, 0, 0)), SHAPES)
    assert one["body"][0] == pytest.approx(0.1, rel=2e-4)
    assert two["body"][0] == pytest.approx(0.2, rel=2e-4)


def test_no_more_sums_are_released_than_were_charged() -> None:
    round_ = sums()
    for _ in range(TERMS.steps):
        round_.release(total((1, 0, 0)), SHAPES)
    with pytest.raises(PrivacyError, match="number 3 of a round; expected 2"):
        round_.release(total((1, 0, 0)), SHAPES)
    round_.require_complete()


@pytest.mark.parametrize("released", [0, 1])
def test_fewer_sums_than_were_charged_are_noticed(released: int) -> None:
    round_ = sums()
    for _ in range(released):
        round_.release(total((1, 0, 0)), SHAPES)
    with pytest.raises(PrivacyError, match=f"{released} noised sums"):
        round_.require_complete()


def test_a_sum_clipped_to_another_norm_is_not_released() -> None:
    round_ = sums()
    with pytest.raises(PrivacyError, match="another norm"):
        round_.release(total((1, 0, 0), norm=5.0), SHAPES)
    assert round_.released == 0


def test_a_norm_that_adapts_moves_noise_and_bound_of_the_next_sum() -> None:
    source = KnownSource(scale=1.0)
    round_ = NoisedSums(replace(TERMS, adaptive_clipping=True, divisor=1.0), source, 4.0)
    round_.release(total(*[(1, 0, 0)] * 40), SHAPES)
    assert source.asked == [2, 1, 1]  # body, head, bits
    assert round_.max_grad_norm == pytest.approx(4.0 * np.exp(-0.1))  # all 40 were below
    with pytest.raises(PrivacyError, match="another norm"):
        round_.release(total((1, 0, 0)), SHAPES)


def test_a_norm_that_adapts_pays_with_more_noise_on_the_vectors() -> None:
    terms = replace(TERMS, adaptive_clipping=True)
    loud, plain = KnownSource(scale=1.0), KnownSource(scale=1.0)
    empty = ClippedSum.empty(SHAPES, 4.0)
    more = NoisedSums(terms, loud, 4.0).release(empty, SHAPES)["body"]
    less = NoisedSums(TERMS, plain, 4.0).release(empty, SHAPES)["body"]
    np.testing.assert_allclose(more, 1.05 * less)


@pytest.mark.parametrize("length", [0.0, 99.0])
def test_once_a_norm_has_moved_the_noise_is_made_for_where_it_stands(length: float) -> None:
    """A longer bound under the noise of the shorter one would cost more than was charged."""
    terms = replace(TERMS, adaptive_clipping=True)
    source = KnownSource(scale=1.0)
    round_ = NoisedSums(terms, source, 4.0)
    round_.release(total(*[(length, 0, 0)] * 40), SHAPES)
    source.rng = np.random.default_rng(0)
    moved = round_.max_grad_norm
    assert (moved > 4.1) if length else (moved < 3.9)
    noise = round_.release(ClippedSum.empty(SHAPES, moved), SHAPES)["body"]
    std = 1.05 * terms.noise_multiplier * moved / terms.divisor
    np.testing.assert_allclose(noise, std * np.random.default_rng(0).standard_normal(2))
