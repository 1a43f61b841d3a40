"""The one-run audit: many canary patients, each in or out by a coin, guessed from one release.

Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, theorem 5.2: of r guesses (and m - r
abstentions) under (epsilon, delta) differential privacy,

    P[at least v right] <= beta + 2 m delta alpha,   W' ~ Binomial(r, e^epsilon / (1 + e^epsilon))
    beta = P[W' >= v],   alpha = max_i P[v > W' >= v - i] / i

The lower bound is the largest epsilon that this rejects at 5%. A canary has a direction of its own
and is far longer than the clip norm.
"""

import math

import numpy as np

from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy_audit.findings import Finding, verdict_of
from metaward_client.privacy_audit.unit_release import AUDIT_NORM, Release

CANARIES = 1000
GUESSES = 200
RECORDS = 4
LENGTH = 10.0
CONFIDENCE = 0.95


def one_run_lower_bound(
    release: Release, source: Normals, rng: np.random.Generator, *, target_delta: float
) -> float:
    """Return a 95% lower bound on epsilon (add or remove one patient) from one release.

    Args:
        release: The mechanism.
        source: Of its noise.
        rng: Of the coins; not known to the mechanism.
        target_delta: Delta at which epsilon is bounded.
    """
    directions = np.eye(CANARIES) * LENGTH * AUDIT_NORM
    included = rng.random(CANARIES) < 0.5
    records = np.repeat(directions[included][:, None, :], RECORDS, axis=1)
    released = release(records, source)
    if not np.isfinite(released).all():
        return math.inf
    scores = released  # the dot product with each canary's direction, up to its length
    order = np.argsort(scores)
    half = GUESSES // 2
    right = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
    return epsilon_lower_bound(right, GUESSES, CANARIES, target_delta)


def epsilon_lower_bound(right: int, guesses: int, canaries: int, target_delta: float) -> float:
    """Return the largest epsilon that ``right`` of ``guesses`` rejects at 95%.

    >>> epsilon_lower_bound(50, 100, 1000, 1e-5)
    0.0
    """
    low, high = 0.0, 30.0
    if _p_value(right, guesses, canaries, low, target_delta) > 1 - CONFIDENCE:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        rejected = _p_value(right, guesses, canaries, middle, target_delta) <= 1 - CONFIDENCE
        low, high = (middle, high) if rejected else (low, middle)
    return low


def _p_value(right: int, guesses: int, canaries: int, epsilon: float, target_delta: float) -> float:
    from scipy.stats import binom

    law = binom(guesses, 1 / (1 + math.exp(-epsilon)))
    beta = float(law.sf(right - 1))
    below = np.cumsum(law.pmf(np.arange(right - 1, -1, -1)))
    alpha = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, beta + 2 * canaries * target_delta * alpha)


def one_run_finding(bound: float, claim: float, target_delta: float) -> Finding:
    """Say whether the guesses were better than the claim allows."""
    return Finding(
        check="one-run audit",
        question="Can somebody who sees a release tell which patients are in it better than the "
        "claim allows?",
        done=f"{CANARIES} made-up patients, each easy to recognise, were put in or left out by a "
        "coin; an attacker guessed from one release who was in.",
        seen=f"With 95% confidence epsilon is at least {bound:.2f}; claimed for this test is "
        f"{claim:.2f} (delta {target_delta:g}).",
        verdict=verdict_of(bound <= claim),
        figures={"epsilon_lower_bound": bound, "epsilon_claimed": claim},
    )
