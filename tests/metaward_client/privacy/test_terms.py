"""What a round costs is stated in values that mean something, or not at all."""

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from metaward.errors import PrivacyError
from metaward_client.privacy.terms import Budget, GaussianStep, Relation, Terms

TERMS = Terms(
    mechanism="dp-sgd",
    noise_multiplier=1.5,
    sample_rate=0.05,
    steps=5,
    max_grad_norm=1.0,
    divisor=20.0,
)
BLOCK = replace(TERMS, mechanism="block", steps=1)


def test_one_round_is_its_steps_at_one_noise_and_one_rate() -> None:
    assert TERMS.per_round() == {GaussianStep(1.5, 0.05): 5}
    assert BLOCK.per_round() == {GaussianStep(1.5, 0.05): 1}


def test_patients_are_added_or_removed_in_dp_sgd_and_replaced_in_a_block() -> None:
    assert TERMS.relation is Relation.ADD_OR_REMOVE_ONE
    assert BLOCK.relation is Relation.REPLACE_ONE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("noise_multiplier", "sample_rate", "max_grad_norm", "divisor")
        for value in (0.0, -1.0, math.nan, math.inf, True, "1")
    ]
    + [("sample_rate", 1.0001), ("steps", 0), ("steps", 2.0), ("steps", True)]
    + [("mechanism", "none"), ("mechanism", "gaussian")],
)
def test_terms_outside_their_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(PrivacyError, match=rf"{name}: .*expected .*nothing was released"):
        replace(TERMS, **{name: value})  # type: ignore[arg-type]


def test_a_block_is_released_once_a_round() -> None:
    with pytest.raises(PrivacyError, match="steps: 2; expected 1, because a block is released"):
        replace(BLOCK, steps=2)


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate"),
    [(0.0, 0.1), (-1.0, 0.1), (math.nan, 0.1), (math.inf, 0.1), (1.0, 0.0), (1.0, 1.1)],
)
def test_a_step_outside_its_range_is_refused(noise_multiplier: float, sample_rate: float) -> None:
    with pytest.raises(PrivacyError, match=r"noise_multiplier|sample_rate"):
        GaussianStep(noise_multiplier, sample_rate)


@pytest.mark.parametrize(
    ("target_epsilon", "target_delta"),
    [(0.0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (8.0, 0.0), (8.0, 1.0), (8.0, math.nan)],
)
def test_a_budget_outside_its_range_is_refused(target_epsilon: float, target_delta: float) -> None:
    with pytest.raises(PrivacyError, match=r"target_epsilon|target_delta"):
        Budget(target_epsilon, target_delta)


def test_terms_cannot_be_changed_once_stated() -> None:
    with pytest.raises(FrozenInstanceError):
        TERMS.noise_multiplier = 0.1  # type: ignore[misc]


def test_terms_import_nothing_heavy() -> None:
    code = (
        "import sys, metaward_client.privacy.terms;"
        "print({'torch','numpy','dp_accounting','opacus','scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
