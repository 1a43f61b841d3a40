"""Training in one place and scoring: what a step is, going on after a kill, and the interval."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_omniglot import PROTOTYPICAL, REPTILE, a_training

from metaward.arrays import Arrays
from metaward.errors import ConfigError
from metaward.learner_settings import FedAvgSettings, LearnerSettings
from metaward.meta.compose import build_learner
from metaward.tasks import Task
from omniglot import episodes as episodes_module
from omniglot import training as training_module
from omniglot.episodes import Classes, Setting, drawn_tasks
from omniglot.scoring import episode_accuracies, mean_and_reach
from omniglot.training import Trained, Training, train

pytestmark = pytest.mark.usefixtures("one_thread")

FIVE_ONE = Setting(5, 1)


def train_on(sides: tuple[Classes, Classes], training: Training, folder: Path) -> Trained:
    assert not isinstance(training.study.learner, FedAvgSettings)
    return train(training, drawn_tasks(sides[0], training.study.learner.n_way), folder)


def assert_same_bits(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


# --- scores ---------------------------------------------------------------------------------------


def test_the_interval_is_the_one_worked_by_hand() -> None:
    # Mean 0.8; deviations -0.2, 0, 0.2: sd = sqrt(0.08 / 2) = 0.2; 1.96 * 0.2 / sqrt(3) = 0.226321.
    assert mean_and_reach([0.6, 0.8, 1.0]) == (0.8, 0.226321)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_four_times_the_episodes_give_about_half_the_interval(accuracies: list[float]) -> None:
    n = len(accuracies)
    mean, reach = mean_and_reach(accuracies)
    again, narrower = mean_and_reach(accuracies * 4)
    assert again == pytest.approx(mean, abs=2e-6)
    assert narrower == pytest.approx(reach * math.sqrt((n - 1) / (4 * n - 1)), abs=2e-6)


def test_training_pays_on_characters_that_nobody_trained_on(
    sides: tuple[Classes, Classes], tmp_path: Path
) -> None:
    def accuracy(steps: int, folder: Path) -> float:
        training = a_training(steps=steps, meta_batch=1)
        trained = train_on(sides, training, folder)
        accuracies = episode_accuracies(
            training.study, trained.theta, sides[1], FIVE_ONE, episodes=60, n_query=3
        )
        return mean_and_reach(accuracies)[0]

    untrained = a_training(budget_s=1e-9)
    start = train_on(sides, untrained, tmp_path / "start")
    assert start.steps == 0
    before = episode_accuracies(
        untrained.study, start.theta, sides[1], FIVE_ONE, episodes=60, n_query=3
    )
    assert accuracy(60, tmp_path / "trained") > mean_and_reach(before)[0] + 0.05


def test_an_accuracy_is_a_share_of_right_answers_of_the_same_list_of_episodes(
    sides: tuple[Classes, Classes], tmp_path: Path
) -> None:
    training = a_training(steps=1)
    theta = train_on(sides, training, tmp_path).theta

    def scores(n_episodes: int) -> list[float]:
        return episode_accuracies(
            training.study, theta, sides[1], FIVE_ONE, episodes=n_episodes, n_query=2
        )

    eight = scores(8)
    assert scores(2) == eight[:2]
    assert len(set(eight)) > 1
    assert all(10 * accuracy == pytest.approx(round(10 * accuracy)) for accuracy in eight)


# --- training -------------------------------------------------------------------------------------


def test_the_step_size_stays_or_goes_to_zero_in_a_straight_line() -> None:
    plain = a_training(steps=4)
    assert [plain.outer(step).step_size for step in range(4)] == [0.01] * 4
    annealed = a_training(steps=4, anneal=True)
    assert [annealed.outer(step).step_size for step in range(4)] == [0.01, 0.0075, 0.005, 0.0025]


def test_an_annealed_training_takes_smaller_steps_after_the_first(
    sides: tuple[Classes, Classes], tmp_path: Path
) -> None:
    thetas = {}
    for steps in (1, 2):
        for anneal in (False, True):
            training = a_training(REPTILE, steps=steps, anneal=anneal)
            folder = tmp_path / f"{steps}-{anneal}"
            thetas[steps, anneal] = train_on(sides, training, folder).theta
    assert_same_bits(thetas[1, True], thetas[1, False])
    for name, first in thetas[1, True].items():  # the second of two steps has half the size
        np.testing.assert_allclose(
            thetas[2, True][name] - first, (thetas[2, False][name] - first) / 2, atol=1e-6
        )


def test_reptiles_outer_step_lands_on_the_mean_of_the_adapted_parameters(
    sides: tuple[Classes, Classes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas: list[Arrays] = []
    learner = build_learner(REPTILE)

    class Watched:
        def local_delta(self, body: Any, theta: Any, task: Task, rng: Any) -> Any:
            result = learner.local_delta(body, theta, task, rng)
            deltas.append({name: leaf.numpy() for name, leaf in result.delta.items()})
            return result

    monkeypatch.setattr(training_module, "build_learner", lambda _: Watched())
    start = train_on(sides, a_training(REPTILE, budget_s=1e-9), tmp_path / "start").theta
    trained = train_on(sides, a_training(REPTILE, steps=1), tmp_path / "one")
    assert len(deltas) == 2
    for name, leaf in trained.theta.items():
        mean = (deltas[0][name] + deltas[1][name]) / 2
        np.testing.assert_allclose(leaf, start[name] + mean, atol=1e-6)


@pytest.mark.parametrize("learner", [PROTOTYPICAL, REPTILE], ids=lambda learner: learner.name)
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    learner: LearnerSettings,
    sides: tuple[Classes, Classes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = a_training(learner, anneal=True)
    whole = train_on(sides, training, tmp_path / "whole")
    monkeypatch.setattr(training_module, "CHECKPOINT_EVERY_S", 0.0)
    draw: Callable[..., Task] = episodes_module.drawn_task
    drawn = 0

    def killed_at_the_eighth(*arguments: Any) -> Task:
        nonlocal drawn
        drawn += 1
        if drawn == 8:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(episodes_module, "drawn_task", killed_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train_on(sides, training, tmp_path / "killed")
    resumed = train_on(sides, training, tmp_path / "killed")
    assert resumed.steps == whole.steps == 6
    assert drawn == 8 + 2 * (6 - 3)  # three steps of two tasks were kept
    assert_same_bits(resumed.theta, whole.theta)
    assert train_on(sides, training, tmp_path / "killed").steps == 6
    assert drawn == 14


def test_a_training_ends_when_its_cpu_seconds_are_used_up_also_over_a_kill(
    sides: tuple[Classes, Classes], tmp_path: Path
) -> None:
    training = a_training(steps=100_000, budget_s=0.3)
    first = train_on(sides, training, tmp_path)
    assert 0 < first.steps < 100_000
    assert first.spent_s >= 0.3
    again = train_on(sides, training, tmp_path)
    assert again.steps == first.steps
    assert again.spent_s >= first.spent_s


def test_a_checkpoint_of_other_settings_is_refused(
    sides: tuple[Classes, Classes], tmp_path: Path
) -> None:
    train_on(sides, a_training(steps=1), tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        train_on(sides, a_training(steps=1, meta_batch=3), tmp_path)


def test_seeds_are_different_trainings(sides: tuple[Classes, Classes], tmp_path: Path) -> None:
    training = a_training(steps=1)
    one, other = (
        train_on(sides, training.with_seed(seed), tmp_path / str(seed)).theta for seed in (0, 1)
    )
    assert any(not np.array_equal(one[name], other[name]) for name in one)
    assert training.with_seed(0) == training
