"""The two-world test: many releases with and without one worst-case patient, told apart.

For every (epsilon, delta) that holds and any test that says "present",

    P[present | with] <= e^epsilon P[present | without] + delta     (and with the worlds exchanged)

(Kairouz, Oh and Viswanath 2015, arXiv:1311.0776). A threshold is chosen on one half of the
releases and tried on the other; exact binomial intervals (Clopper and Pearson 1934) give a 95%
lower bound on epsilon. A promise holds at every delta, and at a delta of 0.01 a test of this size
sees far more than at 1e-5.
"""

import math

import numpy as np
from numpy.typing import NDArray

from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy_audit.findings import Finding, verdict_of
from metaward_client.privacy_audit.unit_release import AUDIT_NORM, Release

TEST_DELTA = 0.01
CONFIDENCE = 0.95
OTHERS = 4
RECORDS = 4
LENGTH = 10.0


def two_world_lower_bound(release: Release, source: Normals, *, releases: int) -> float:
    """Return a 95% lower bound on epsilon at ``TEST_DELTA``, add or remove one patient.

    Args:
        release: The mechanism.
        source: Of its noise.
        releases: In each world; half of them choose the threshold.
    """
    others = np.zeros((OTHERS, RECORDS, 1))
    patient = np.full((1, RECORDS, 1), LENGTH * AUDIT_NORM)
    without = _released(release, others, source, releases)
    present = _released(release, np.concatenate([others, patient]), source, releases)
    if not (np.isfinite(without).all() and np.isfinite(present).all()):
        return math.inf
    half = releases // 2
    threshold, sign = _best_threshold(present[:half], without[:half])
    # 95% for both rates together
    with_low, _ = _interval(int(np.sum(sign * present[half:] > threshold)), releases - half)
    _, without_high = _interval(int(np.sum(sign * without[half:] > threshold)), releases - half)
    if with_low <= TEST_DELTA:
        return 0.0
    return max(0.0, math.log((with_low - TEST_DELTA) / without_high))


def _released(
    release: Release, records: NDArray[np.float64], source: Normals, releases: int
) -> NDArray[np.float64]:
    return np.array([release(records, source)[0] for _ in range(releases)])


def _best_threshold(
    present: NDArray[np.float64], without: NDArray[np.float64]
) -> tuple[float, float]:
    """Return threshold and sign of the test with the largest bound on these releases."""
    best, found = -math.inf, (0.0, 1.0)
    for sign in (1.0, -1.0):
        for threshold in np.quantile(sign * without, np.linspace(0.5, 0.999, 60)):
            low, _ = _interval(int(np.sum(sign * present > threshold)), len(present))
            _, high = _interval(int(np.sum(sign * without > threshold)), len(without))
            bound = math.log(max(low - TEST_DELTA, 1e-12) / high)
            if bound > best:
                best, found = bound, (float(threshold), sign)
    return found


def _interval(successes: int, trials: int) -> tuple[float, float]:
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1
    return low, high


def two_world_finding(bound: float, claim: float, releases: int) -> Finding:
    """Say whether the two worlds could be told apart better than claimed."""
    return Finding(
        check="two-world test",
        question="Can the presence of one patient of the worst kind be told from a release better "
        "than the claim allows?",
        done=f"{releases:,} releases were made with that patient and as many without; the best "
        "threshold from one half was tried on the other.",
        seen=f"With 95% confidence epsilon is at least {bound:.2f}; claimed for this test is "
        f"{claim:.2f} (delta {TEST_DELTA:g}).",
        verdict=verdict_of(bound <= claim),
        figures={"epsilon_lower_bound": bound, "epsilon_claimed": claim},
    )
