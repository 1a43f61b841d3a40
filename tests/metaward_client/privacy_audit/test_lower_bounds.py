"""The lower bounds on epsilon are the theorems' own, and one above the claim fails the audit."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy_audit.findings import Finding, Verdict
from metaward_client.privacy_audit.one_run import (
    epsilon_lower_bound,
    one_run_finding,
    one_run_lower_bound,
)
from metaward_client.privacy_audit.randomness import NoNoise
from metaward_client.privacy_audit.sampling import SamplesSeen, sampling_finding
from metaward_client.privacy_audit.two_worlds import (
    OTHERS,
    TEST_DELTA,
    two_world_finding,
    two_world_lower_bound,
)
from metaward_client.privacy_audit.unit_release import Release

RELEASES = 400
Vector = NDArray[np.float64]


def saying(present: float, absent: float) -> Release:
    """Return a release that says which of the two worlds it is made in."""

    def release(records: Vector, source: Normals) -> Vector:
        return np.array([present if len(records) > OTHERS else absent])

    return release


def two_worlds(release: Release) -> float:
    return two_world_lower_bound(release, NoNoise(), releases=RELEASES)


@pytest.mark.parametrize(("present", "absent"), [(1.0, 0.0), (-1.0, 0.0)], ids=["more", "less"])
def test_worlds_that_are_always_told_apart_give_the_bound_of_so_many_releases(
    present: float, absent: float
) -> None:
    # of n trials all or none: the exact interval ends at 0.025^(1/n) and at 1 - 0.025^(1/n)
    end = 0.025 ** (1 / (RELEASES - RELEASES // 2))
    expected = math.log((end - TEST_DELTA) / (1 - end))
    assert two_worlds(saying(present, absent)) == pytest.approx(expected, abs=1e-9)


def test_the_releases_that_choose_the_threshold_do_not_count_for_the_bound() -> None:
    present = iter([-1.0] * (RELEASES // 2) + [1.0] * (RELEASES // 2))

    def release(records: Vector, source: Normals) -> Vector:
        return np.array([next(present) if len(records) > OTHERS else 0.0])

    assert two_worlds(release) == 0.0


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_release_that_is_no_number_gives_no_bound_that_a_claim_could_meet(value: float) -> None:
    def of_all(records: Vector, source: Normals) -> Vector:
        return np.full(records.shape[2], value)

    assert two_worlds(saying(value, 0.0)) == math.inf
    assert two_worlds(saying(0.0, value)) == math.inf
    rng = np.random.default_rng(0)
    assert one_run_lower_bound(of_all, NoNoise(), rng, target_delta=1e-5) == math.inf


def test_one_run_guesses_everybody_right_where_a_release_hides_nothing() -> None:
    def exact(records: Vector, source: Normals) -> Vector:
        return np.asarray(records.mean(axis=1).sum(axis=0))

    found = one_run_lower_bound(exact, NoNoise(), np.random.default_rng(0), target_delta=1e-5)
    assert found == epsilon_lower_bound(200, 200, 1000, 1e-5)


@pytest.mark.parametrize("right", [140, 170, 200])
@pytest.mark.parametrize("target_delta", [0.0, 1e-5, 1e-4])
def test_the_bound_of_one_run_is_where_the_theorem_says_five_per_cent(
    right: int, target_delta: float
) -> None:
    guesses, canaries = 200, 1000
    bound = epsilon_lower_bound(right, guesses, canaries, target_delta)
    law = [binom.pmf(k, guesses, 1 / (1 + math.exp(-bound))) for k in range(guesses + 1)]
    beta = sum(law[right:])
    alpha = max(sum(law[right - i : right]) / i for i in range(1, right + 1))
    assert beta + 2 * canaries * target_delta * alpha == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(
    "finding",
    [
        lambda bound, claim: two_world_finding(bound, claim, RELEASES),
        lambda bound, claim: one_run_finding(bound, claim, 1e-5),
    ],
    ids=["two worlds", "one run"],
)
def test_a_bound_above_the_claim_fails_by_however_little(
    finding: Callable[[float, float], Finding],
) -> None:
    assert finding(1.3, 1.3).verdict is Verdict.PASS
    assert finding(math.nextafter(1.3, 2), 1.3).verdict is Verdict.FAIL
    assert finding(math.inf, 1.3).verdict is Verdict.FAIL


@pytest.mark.parametrize("improbable", ["p_units", "p_size", "p_pairs"])
def test_samples_fail_where_any_of_the_three_tests_does(improbable: str) -> None:
    p_values = {"p_units": 0.5, "p_size": 0.5, "p_pairs": 0.5}
    assert sampling_finding(SamplesSeen(**p_values, size_variance_ratio=1.0), 9).verdict is (
        Verdict.PASS
    )
    seen = SamplesSeen(**p_values | {improbable: 1e-5}, size_variance_ratio=1.0)
    assert sampling_finding(seen, 9).verdict is Verdict.FAIL
