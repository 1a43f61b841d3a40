"""The noise that is proposed is enough, and a thousandth less would not be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from metaward.errors import PrivacyError
from metaward_client.privacy.accountant import epsilon
from metaward_client.privacy.calibration import (
    _downwards,
    _smallest,
    noise_multiplier_for,
    rounds_for,
)
from metaward_client.privacy.terms import GaussianStep, Relation

ADD = Relation.ADD_OR_REMOVE_ONE
REPLACE = Relation.REPLACE_ONE


@pytest.mark.parametrize(
    ("rounds", "steps", "sample_rate", "target_epsilon", "target_delta", "relation"),
    [
        (100, 5, 0.05, 8.0, 1e-5, ADD),
        (100, 5, 0.05, 1.0, 1e-5, ADD),
        (100, 1, 0.5, 3.0, 1e-5, REPLACE),
        (1000, 3, 0.01, 2.0, 1e-6, ADD),
        (7, 1, 1.0, 0.5, 1e-4, REPLACE),
    ],
)
def test_the_smallest_noise_that_fits_is_found_to_three_decimals(
    rounds: int,
    steps: int,
    sample_rate: float,
    target_epsilon: float,
    target_delta: float,
    relation: Relation,
) -> None:
    sigma = noise_multiplier_for(
        rounds=rounds,
        steps=steps,
        sample_rate=sample_rate,
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        relation=relation,
    )

    def spent(noise_multiplier: float) -> float:
        composition = {GaussianStep(noise_multiplier, sample_rate): rounds * steps}
        return epsilon(composition, target_delta=target_delta, relation=relation)

    assert round(sigma, 3) == sigma
    assert spent(sigma) <= target_epsilon < spent(round(sigma - 0.001, 3))
    # and the other way round: this noise allows those rounds
    allowed = rounds_for(
        noise_multiplier=sigma,
        steps=steps,
        sample_rate=sample_rate,
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        relation=relation,
    )
    assert allowed >= rounds


@pytest.mark.parametrize(("relation", "moved"), [(ADD, 1.0), (REPLACE, 2.0)])
def test_without_sampling_the_noise_is_that_of_the_closed_form(
    relation: Relation, moved: float
) -> None:
    # Balle and Wang 2018, eq. 6, solved for sigma: 16 Gaussians of sigma are one of sigma / 4
    target_epsilon, target_delta = 2.0, 1e-5

    def excess(sigma: float) -> float:
        a = moved * 4 / sigma
        first = math.exp(log_ndtr(a / 2 - target_epsilon / a))
        rest = math.exp(target_epsilon + log_ndtr(-a / 2 - target_epsilon / a))
        return first - rest - target_delta

    exact = brentq(excess, 1.0, 100.0, xtol=1e-10)
    found = noise_multiplier_for(
        rounds=16,
        steps=1,
        sample_rate=1.0,
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        relation=relation,
    )
    assert exact <= found <= exact + 0.002


def test_no_less_noise_is_proposed_than_protects_without_sampling() -> None:
    sigma = noise_multiplier_for(
        rounds=1,
        steps=1,
        sample_rate=1e-4,
        target_epsilon=50.0,
        target_delta=1e-3,
        relation=ADD,
    )
    assert sigma == 0.3


def test_a_plan_that_no_noise_can_protect_is_refused() -> None:
    with pytest.raises(PrivacyError, match="Plan fewer rounds or steps, a smaller sample rate"):
        noise_multiplier_for(
            rounds=100_000,
            steps=100,
            sample_rate=1.0,
            target_epsilon=0.01,
            target_delta=1e-9,
            relation=REPLACE,
        )


@pytest.mark.parametrize("name", ["rounds", "steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_plan_without_rounds_or_steps_is_refused(name: str, value: int) -> None:
    plan = {"rounds": 10, "steps": 1} | {name: value}
    with pytest.raises(PrivacyError, match=f"{name}: .*a whole number, at least 1"):
        noise_multiplier_for(
            **plan, sample_rate=0.1, target_epsilon=1.0, target_delta=1e-5, relation=ADD
        )


@pytest.mark.parametrize(("noise_multiplier", "expected"), [(1.5, 21), (1.0, 1), (0.4, 0)])
def test_rounds_that_a_noise_allows(noise_multiplier: float, expected: int) -> None:
    found = rounds_for(
        noise_multiplier=noise_multiplier,
        steps=5,
        sample_rate=0.05,
        target_epsilon=2.0,
        target_delta=1e-6,
        relation=ADD,
    )
    assert found == expected


def test_rounds_of_blocks_are_those_that_fit_where_a_vector_is_replaced() -> None:
    found = rounds_for(
        noise_multiplier=4.0,
        steps=1,
        sample_rate=0.1,
        target_epsilon=2.0,
        target_delta=1e-5,
        relation=REPLACE,
    )
    step = GaussianStep(4.0, 0.1)
    fits, too_many = (
        epsilon({step: rounds}, target_delta=1e-5, relation=REPLACE)
        for rounds in (found, found + 1)
    )
    assert fits <= 2.0 < too_many


@given(threshold=st.integers(1, 10**6), start=st.integers(0, 10**4))
def test_both_searches_find_the_smallest_that_fits(threshold: int, start: int) -> None:
    def fits(n: int) -> bool:
        return n >= threshold

    assert _smallest(fits, 0, 10**6) == threshold
    assert _downwards(fits, 1, threshold + start) == threshold


def test_a_delta_below_what_the_accountant_resolves_is_named_instead_of_the_plan() -> None:
    with pytest.raises(PrivacyError, match=r"target_delta: 1e-11; expected at least 1e-10"):
        noise_multiplier_for(
            rounds=1, steps=1, sample_rate=0.1, target_epsilon=8.0, target_delta=1e-11, relation=ADD
        )
    with pytest.raises(PrivacyError, match=r"target_delta: 1e-11; expected at least 1e-10"):
        rounds_for(
            noise_multiplier=9.0, steps=1, sample_rate=0.1,
            target_epsilon=8.0, target_delta=1e-11, relation=ADD,
        )  # fmt: skip
