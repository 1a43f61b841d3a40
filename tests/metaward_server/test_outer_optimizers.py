"""Outer optimisers against numbers worked by hand."""

import numpy as np
import pytest

from metaward.arrays import Arrays
from metaward.study import AdamSettings, MomentumSettings, OuterSettings, SgdSettings, YogiSettings
from metaward_server.outer_optimizers import OuterState, initial_state, outer_step

ALL = [SgdSettings(), MomentumSettings(), AdamSettings(), YogiSettings()]


def walk(settings: OuterSettings, start: float, deltas: list[float]) -> list[float]:
    """Return theta after each step of a problem with one number."""
    theta: Arrays = {"x": np.float32([start])}
    state = initial_state(settings, theta)
    path = []
    for delta in deltas:
        theta, state = outer_step(settings, state, theta, {"x": np.float32([delta])})
        path.append(float(theta["x"][0]))
    return path


def test_sgd_adds_the_delta_times_the_step_size() -> None:
    assert walk(SgdSettings(step_size=0.5), 1.0, [2.0, -4.0]) == [2.0, 0.0]


def test_sgd_with_step_one_lands_on_the_mean_of_the_adapted_parameters() -> None:
    assert walk(SgdSettings(), 1.0, [0.25]) == [1.25]


def test_momentum_accumulates_velocity() -> None:
    # v: 2, 0.5*2+2 = 3, 0.5*3-4 = -2.5;  theta: 1+0.5v each time
    path = walk(MomentumSettings(step_size=0.5, momentum=0.5), 1.0, [2.0, 2.0, -4.0])
    assert path == [2.0, 3.5, 2.25]


def test_adam_follows_the_paper_without_bias_correction() -> None:
    # beta1 .5, beta2 .75, tau 1, eta 1, v starts at tau^2 = 1.
    # step 1, delta 2: m = 1; v = .75*1 + .25*4 = 1.75; theta = 0 + 1/(sqrt 1.75 + 1)
    # step 2, delta -1: m = 0; theta stays
    first = 1 / (np.sqrt(1.75) + 1)
    settings = AdamSettings(step_size=1.0, beta1=0.5, beta2=0.75, tau=1.0)
    assert walk(settings, 0.0, [2.0, -1.0]) == pytest.approx([first, first], rel=1e-6)


def test_yogi_moves_the_second_moment_by_the_sign() -> None:
    # beta1 .5, beta2 .75, tau 1, eta 1, v starts at 1.
    # step 1, delta 2: m = 1; v = 1 - .25*4*sign(1-4) = 2; theta = 1/(sqrt 2 + 1)
    # step 2, delta 1: m = 1; v = 2 - .25*1*sign(2-1) = 1.75; theta += 1/(sqrt 1.75 + 1)
    first = 1 / (np.sqrt(2.0) + 1)
    second = first + 1 / (np.sqrt(1.75) + 1)
    settings = YogiSettings(step_size=1.0, beta1=0.5, beta2=0.75, tau=1.0)
    assert walk(settings, 0.0, [2.0, 1.0]) == pytest.approx([first, second], rel=1e-6)


@pytest.mark.parametrize("settings", ALL)
def test_every_rule_moves_theta_the_way_the_delta_points(settings: OuterSettings) -> None:
    assert walk(settings, 0.0, [0.3])[0] > 0 > walk(settings, 0.0, [-0.3])[0]


@pytest.mark.parametrize("settings", ALL)
def test_a_zero_delta_at_the_start_changes_nothing(settings: OuterSettings) -> None:
    assert walk(settings, 1.5, [0.0]) == [1.5]


@pytest.mark.parametrize("settings", ALL)
def test_neither_theta_nor_the_state_that_came_in_is_changed(
    settings: OuterSettings, theta: Arrays
) -> None:
    state = initial_state(settings, theta)
    before = copy_of(theta), {slot: copy_of(arrays) for slot, arrays in state.items()}
    outer_step(settings, state, theta, copy_of(theta))
    assert_equal_state({"theta": theta, **state}, {"theta": before[0], **before[1]})


@pytest.mark.parametrize("settings", ALL)
def test_theta_and_state_stay_float32_with_their_shapes(
    settings: OuterSettings, theta: Arrays
) -> None:
    moved, state = outer_step(settings, initial_state(settings, theta), theta, theta)
    for arrays in [moved, *state.values()]:
        assert {n: a.shape for n, a in arrays.items()} == {n: a.shape for n, a in theta.items()}
        assert all(array.dtype == np.float32 for array in arrays.values())


def copy_of(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def assert_equal_state(left: OuterState, right: OuterState) -> None:
    assert left.keys() == right.keys()
    for slot, arrays in left.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, right[slot][name])


@pytest.mark.parametrize("settings", [AdamSettings(tau=0.25), YogiSettings(tau=0.25)])
def test_the_second_moment_starts_at_the_square_of_tau(
    settings: AdamSettings | YogiSettings,
) -> None:
    state = initial_state(settings, {"w": np.ones(2, np.float32)})
    assert state["second"]["w"].tolist() == [0.0625, 0.0625]
    assert not state["first"]["w"].any()
