"""Noise, samples and releases that are not what was claimed are found; the product's pass."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import mutants
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaward_client.privacy.accountant import epsilon
from metaward_client.privacy.clip_norm import NoiseShares, noise_shares
from metaward_client.privacy.noise import NoiseSource
from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy.poisson import poisson_sample
from metaward_client.privacy.terms import Relation
from metaward_client.privacy_audit.findings import Verdict
from metaward_client.privacy_audit.noise_scale import (
    NoiseSeen,
    bits_noise_seen,
    noise_finding,
    noise_seen,
)
from metaward_client.privacy_audit.one_run import epsilon_lower_bound, one_run_lower_bound
from metaward_client.privacy_audit.sampling import Sampler, samples_seen
from metaward_client.privacy_audit.two_worlds import TEST_DELTA, two_world_lower_bound
from metaward_client.privacy_audit.unit_release import Release, audit_terms, product_release

TERMS = audit_terms()
PRODUCT = product_release(TERMS)
STD = TERMS.noise_multiplier * TERMS.max_grad_norm / TERMS.divisor
ADD = Relation.ADD_OR_REMOVE_ONE
RELEASES = 3000
RELEASES_FOR_HALF_NOISE = 20_000


def known_sources(start: int = 0) -> Callable[[], NoiseSource]:
    """Return fresh sources, the same ones in every run of the tests."""
    keys = itertools.count(start + 1)
    return lambda: NoiseSource(next(keys).to_bytes(32, "big"))


def claim(target_delta: float) -> float:
    return epsilon(TERMS.per_round(), target_delta=target_delta, relation=ADD)


@pytest.mark.parametrize("patients", [0, 2])
def test_the_products_noise_is_what_it_claims(patients: int) -> None:
    assert noise_seen(PRODUCT, known_sources(), STD, patients=patients).sound
    assert noise_seen(mutants.SOUND, known_sources(), STD, patients=patients).sound


@pytest.mark.parametrize(
    ("mutant", "patients"),
    [
        (mutants.NO_NOISE, 0),
        (mutants.HALF_NOISE, 0),
        (mutants.NOISE_OVER_BATCH, 2),
        (mutants.EMPTY_SKIPPED, 0),
        (mutants.noise_reused, 0),
    ],
    ids=["no noise", "half noise", "noise over batch", "empty batch skipped", "noise reused"],
)
def test_noise_that_is_missing_small_or_reused_is_caught(mutant: Release, patients: int) -> None:
    seen = noise_seen(mutant, known_sources(), STD, patients=patients)
    assert not seen.sound
    assert noise_finding({"mutant": seen}).verdict is Verdict.FAIL


@pytest.mark.parametrize("size", [0.98, 1.02], ids=["small", "large"])
def test_noise_that_is_two_per_cent_too_small_or_too_large_is_caught(size: float) -> None:
    almost = mutants.Recipe(noise=lambda _n: size)
    assert not noise_seen(almost, known_sources(), STD, patients=0).sound


def test_noise_of_the_claimed_size_that_is_not_normal_is_caught() -> None:
    def even(records: NDArray[np.float64], source: Normals) -> NDArray[np.float64]:
        return STD * math.sqrt(3) * (2 * source.uniforms(records.shape[2]) - 1)

    seen = noise_seen(even, known_sources(), STD, patients=0)
    assert seen.ratio == pytest.approx(1, abs=0.01)
    assert not seen.sound


def test_sources_that_all_start_alike_are_caught() -> None:
    assert not noise_seen(PRODUCT, lambda: NoiseSource(bytes(32)), STD, patients=0).sound


def test_noise_that_the_next_release_takes_away_again_is_caught() -> None:
    signs = itertools.cycle([1.0, -1.0])
    paired = mutants.Recipe(noise=lambda _n: next(signs))
    assert not noise_seen(paired, lambda: NoiseSource(bytes(32)), STD, patients=0).sound


@pytest.mark.parametrize("bad", ["first", "last"])
def test_one_setting_whose_noise_is_wrong_fails_the_check_beside_sound_ones(bad: str) -> None:
    seen = {name: NoiseSeen(1.0, 0.5, 0.5, 0.0) for name in ("first", "between", "last")}
    assert noise_finding(seen).verdict is Verdict.PASS
    assert noise_finding(seen | {bad: NoiseSeen(0.9, 0.0, 0.5, 0.0)}).verdict is Verdict.FAIL


def test_the_bits_of_adaptive_clipping_get_the_noise_that_pays_for_them() -> None:
    seen = bits_noise_seen(audit_terms(adaptive_clipping=True), known_sources())
    assert seen.sound
    assert abs(seen.ratio - 1) < 0.07  # 4.4 standard errors of 1 / sqrt(2 * 2000)


@pytest.mark.parametrize("too_large", [1.1, 1000.0])
def test_bits_of_adaptive_clipping_with_less_noise_than_is_charged_are_caught(
    monkeypatch: pytest.MonkeyPatch, too_large: float
) -> None:
    def claimed(noise_multiplier: float, *, adaptive: bool) -> NoiseShares:
        found = noise_shares(noise_multiplier, adaptive=adaptive)
        return replace(found, bits=too_large * found.bits)

    monkeypatch.setattr("metaward_client.privacy_audit.noise_scale.noise_shares", claimed)
    assert not bits_noise_seen(audit_terms(adaptive_clipping=True), known_sources()).sound


def test_the_products_samples_are_poisson_samples() -> None:
    seen = samples_seen(poisson_sample, 0.2, known_sources()(), 4000)
    assert seen.sound


@pytest.mark.parametrize(
    ("mutant", "by"),
    [
        (mutants.shuffled_batches, "p_size"),
        (mutants.class_balanced, "p_units"),
        (mutants.families_together, "p_pairs"),
        (mutants.two_who_avoid_each_other, "p_pairs"),
    ],
    ids=["shuffled batches", "class balanced", "families together", "avoiding each other"],
)
def test_samples_that_are_no_poisson_samples_are_caught(mutant: Sampler, by: str) -> None:
    seen = samples_seen(mutant, 0.2, known_sources()(), 4000)
    assert getattr(seen, by) < 1e-6
    assert not seen.sound


def one_run(release: Release) -> float:
    rng = np.random.default_rng(1)
    return one_run_lower_bound(release, known_sources(50)(), rng, target_delta=1e-5)


def test_one_run_finds_no_more_than_the_claim_in_the_product() -> None:
    assert claim(1e-5) < 2
    assert one_run(PRODUCT) <= claim(1e-5)
    assert one_run(mutants.SOUND) <= claim(1e-5)


@pytest.mark.parametrize(
    "mutant",
    [mutants.NO_NOISE, mutants.NOISE_OVER_BATCH, mutants.NO_CLIP, mutants.RECORD_CLIP],
    ids=["no noise", "noise over batch", "no clip", "record clip"],
)
def test_one_run_catches_gross_mistakes(mutant: Release) -> None:
    found = one_run(mutant)
    print(f"one run: {found:.2f} of {claim(1e-5):.2f}")  # noqa: T201 (a figure; pytest -rP)
    assert found > 1.5 * claim(1e-5)


def test_two_worlds_are_told_apart_no_better_than_claimed_in_the_product() -> None:
    found = two_world_lower_bound(PRODUCT, known_sources(60)(), releases=RELEASES)
    assert 0 < found <= claim(TEST_DELTA)


@pytest.mark.parametrize(
    "mutant",
    [mutants.HALF_NOISE, mutants.NO_NOISE, mutants.NOISE_OVER_BATCH, mutants.NO_CLIP,
     mutants.RECORD_CLIP],
    ids=["half noise", "no noise", "noise over batch", "no clip", "record clip"],
)  # fmt: skip
def test_two_worlds_are_told_apart_where_noise_or_clip_is_wrong(mutant: Release) -> None:
    releases = RELEASES_FOR_HALF_NOISE if mutant is mutants.HALF_NOISE else RELEASES
    found = two_world_lower_bound(mutant, known_sources(70)(), releases=releases)
    print(f"two worlds: {found:.2f} of {claim(TEST_DELTA):.2f}")  # noqa: T201 (a figure; pytest -rP)
    assert found > 1.2 * claim(TEST_DELTA)


def test_the_bound_of_one_run_is_the_binomials_where_delta_is_zero() -> None:
    # 100 of 100 right under pure epsilon: (e^x / (1 + e^x))^100 = 0.05
    accuracy = 0.05 ** (1 / 100)
    expected = math.log(accuracy / (1 - accuracy))
    assert epsilon_lower_bound(100, 100, 1000, 0.0) == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 200), st.floats(0, 1e-3), st.floats(0, 1e-3))
@settings(max_examples=30, deadline=None)
def test_a_larger_delta_never_raises_the_bound(right: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    at_low, at_high = (epsilon_lower_bound(right, 200, 1000, d) for d in (low, high))
    assert at_high <= at_low + 1e-6
