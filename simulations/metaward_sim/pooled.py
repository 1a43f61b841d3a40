"""Pooled training: what the hospitals would get if all their images lay in one place."""

from collections.abc import Sequence

import numpy as np
import torch

from metaward.arrays import Arrays, to_arrays
from metaward.meta.compose import build_learner
from metaward.models.build import build_body
from metaward.study import Study
from metaward.tasks import Task


def pooled_task(tasks: Sequence[Task]) -> Task:
    """Return one task with every image; a label belongs to its hospital, as in the federation."""
    label_offsets = np.cumsum([0] + [len(task.label_names) for task in tasks])
    patient_offsets = np.cumsum([0] + [int(task.patients.max()) + 1 for task in tasks])
    return Task(
        site="pooled",
        images=np.concatenate([task.images for task in tasks]),
        labels=np.concatenate(
            [task.labels + offset for task, offset in zip(tasks, label_offsets, strict=False)]
        ),
        patients=np.concatenate(
            [task.patients + offset for task, offset in zip(tasks, patient_offsets, strict=False)]
        ),
        label_names=tuple(f"{task.site}/{name}" for task in tasks for name in task.label_names),
    )


def train_pooled(study: Study, task: Task, steps_per_round: int, begun: Arrays) -> Arrays:
    """Train a body on the pooled task for as many SGD steps as all hospitals took together.

    Args:
        study: The FedAvg study that this is the pooled counterpart of.
        task: From :func:`pooled_task`.
        steps_per_round: SGD steps between two new heads.
        begun: Theta before round 0.
    """
    settings = study.learner.model_copy(update={"local_steps": steps_per_round})
    learner = build_learner(settings)
    body = build_body(study.model, study.seed)
    theta = {name: torch.from_numpy(leaf) for name, leaf in begun.items()}
    for round_index in range(study.rounds):
        rng = np.random.default_rng([study.seed, round_index])
        result = learner.local_delta(body, theta, task, rng)
        theta = {name: leaf + result.delta[name] for name, leaf in theta.items()}
    return to_arrays(theta)
