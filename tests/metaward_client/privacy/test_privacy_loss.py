"""Each direction is composed for itself, and what cannot be counted exactly is an infinite loss."""

from functools import reduce
from types import SimpleNamespace

import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

from accounting_cases import ADD, steps
from metaward_client.privacy.privacy_loss import (
    FLOATING_POINT_MASS,
    TAIL_MASS,
    _step_loss,
    compose,
    largest_loss,
    step_loss,
)
from metaward_client.privacy.terms import GaussianStep, Relation


def test_what_a_steps_probabilities_lack_to_one_counts_as_infinite_loss() -> None:
    lacking = SimpleNamespace(_probs=[0.5, 0.4], _lower_loss=-1, _infinity_mass=0.06)
    assert _step_loss(lacking, 1e-4).infinity_mass == pytest.approx(0.1)


def test_probabilities_of_more_than_one_take_nothing_off_the_infinite_loss() -> None:
    rounded_up = SimpleNamespace(_probs=[0.5, 0.45], _lower_loss=-1, _infinity_mass=0.06)
    assert _step_loss(rounded_up, 1e-4).infinity_mass == 0.06


@pytest.mark.parametrize("relation", Relation)
def test_the_tails_outside_the_window_and_what_float64_loses_count_as_infinite_loss(
    relation: Relation,
) -> None:
    directions = compose(steps((4.0, 0.5, 20), (8.0, 1.0, 3)), relation)
    assert directions
    for direction in directions:
        assert direction.infinity_mass >= TAIL_MASS + FLOATING_POINT_MASS


@pytest.mark.parametrize("target_delta", [1e-3, 1e-6])
def test_adding_and_removing_are_composed_each_of_its_own_losses(target_delta: float) -> None:
    """Removing costs more wherever it was tried, so a lost direction would not show in epsilon."""
    mixed = steps((1.0, 0.05, 4), (2.0, 0.5, 3), (8.0, 1.0, 2))  # the last is alike both ways
    found = compose(mixed, ADD)
    assert found
    removing, adding = (direction.epsilon(target_delta) for direction in found)
    reference = reduce(
        lambda one, other: one.compose(other),
        [
            from_gaussian_mechanism(
                step.noise_multiplier, sampling_prob=step.sample_rate
            ).self_compose(count)
            for step, count in mixed.items()
        ],
    )
    expected_removing = reference._pmf_remove.get_epsilon_for_delta(target_delta)
    expected_adding = reference._pmf_add.get_epsilon_for_delta(target_delta)
    assert expected_adding < 0.9 * expected_removing
    assert expected_removing <= removing <= expected_removing + 1e-4
    assert expected_adding <= adding <= expected_adding + 1e-4


@pytest.mark.parametrize("relation", Relation)
@pytest.mark.parametrize("sample_rate", [0.05, 1.0])
def test_no_step_loses_more_than_its_largest_loss(relation: Relation, sample_rate: float) -> None:
    step = GaussianStep(2.0, sample_rate)
    ends = [direction.last * 1e-3 for direction in step_loss(step, relation, 1e-3)]
    assert max(ends) <= largest_loss(step, relation)
