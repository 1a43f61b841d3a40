"""The pooled baseline: all images in one place, labels and patients kept apart."""

import numpy as np
import pytest

from metaward.learner_settings import FedAvgSettings
from metaward.meta.compose import build_learner
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import SgdSettings, Study
from metaward.tasks import Task
from metaward_server.study_run import initial_theta
from metaward_sim.pooled import pooled_task, train_pooled

STUDY = Study(
    seed=2,
    rounds=3,
    model=ModelSettings(filters=8, groups=2, image_size=16),
    learner=FedAvgSettings(local_steps=1, batch_size=4, local_lr=0.1, augment="none"),
    outer=SgdSettings(),
)

pytestmark = pytest.mark.usefixtures("one_thread")


def task(site: str, labels: list[int], patients: list[int], names: tuple[str, ...]) -> Task:
    rng = np.random.default_rng(len(site))
    images = rng.random((len(labels), 1, 16, 16)).astype(np.float32)
    return Task(site, images, np.array(labels), np.array(patients), names)


NORTH = task("north", [0, 1, 0], [0, 1, 4], ("cyst", "scar"))
WEST = task("west", [0, 1, 1, 0], [0, 0, 1, 2], ("cyst", "mass"))


def test_every_image_is_there_once() -> None:
    pooled = pooled_task([NORTH, WEST])
    np.testing.assert_array_equal(pooled.images, np.concatenate([NORTH.images, WEST.images]))


def test_equal_names_at_two_hospitals_are_two_labels() -> None:
    pooled = pooled_task([NORTH, WEST])
    assert pooled.label_names == ("north/cyst", "north/scar", "west/cyst", "west/mass")
    assert pooled.labels.tolist() == [0, 1, 0, 2, 3, 3, 2]


def test_equal_numbers_at_two_hospitals_are_two_patients() -> None:
    pooled = pooled_task([NORTH, WEST])
    assert pooled.n_patients == NORTH.n_patients + WEST.n_patients
    assert not set(pooled.patients[:3]) & set(pooled.patients[3:])


def test_pooled_training_is_plain_training_for_all_rounds() -> None:
    begun = initial_theta(STUDY)
    trained = train_pooled(STUDY, pooled_task([NORTH, WEST]), 2, begun)
    learner = build_learner(
        FedAvgSettings(local_steps=2, batch_size=4, local_lr=0.1, augment="none")
    )
    body = build_body(STUDY.model, STUDY.seed)
    theta = body.initial_parameters()
    for round_index in range(3):
        rng = np.random.default_rng([2, round_index])
        delta = learner.local_delta(body, theta, pooled_task([NORTH, WEST]), rng).delta
        theta = {name: leaf + delta[name] for name, leaf in theta.items()}
    for name, leaf in theta.items():
        np.testing.assert_array_equal(trained[name], leaf.numpy())


def test_more_steps_go_further() -> None:
    start = build_body(STUDY.model, STUDY.seed).initial_parameters()

    def way(steps: int) -> float:
        theta = train_pooled(STUDY, pooled_task([NORTH, WEST]), steps, initial_theta(STUDY))
        return float(sum(np.abs(theta[name] - start[name].numpy()).sum() for name in start))

    assert way(1) < way(4)
