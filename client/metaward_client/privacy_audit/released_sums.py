"""The sums of the product's two mechanisms, as functions of a data set, for the sensitivity check.

Every patient is drawn (sample rate 1), there is no noise, and the division is undone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metaward.meta.compose import build_learner, build_noised_learner
from metaward.meta.noised import NoisedWork, Parameters
from metaward.models.body import Body
from metaward.study import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.tasks import Task
from metaward_client.privacy.block_release import block_release
from metaward_client.privacy.dp_sgd import Cohort, PatientGradients
from metaward_client.privacy.noised_sum import NoisedSums
from metaward_client.privacy.terms import BLOCK, DP_SGD, Terms
from metaward_client.privacy_audit.randomness import NoNoise
from metaward_client.privacy_audit.sensitivity import VectorSum

TIGHT_NORM = 0.01
"""C of the audit: below the norm of every patient's vector, so that clipping is always at work."""
IMAGES_PER_PATIENT = 4
STEPS = 3
BLOCKS = 2
BLOCK_KEY = bytes(32)

GRADIENT_LEARNERS: tuple[LearnerSettings, ...] = (
    FedAvgSettings(local_lr=1.0),
    ReptileSettings(n_way=2, inner_lr=1.0),
    FomamlSettings(n_way=2, inner_lr=1.0),
)
ALL_LEARNERS: tuple[LearnerSettings, ...] = (
    FedAvgSettings(local_steps=2, batch_size=8),
    ReptileSettings(n_way=2, n_shot=1, inner_steps=2, episodes=1),
    FomamlSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    PrototypicalSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
)


@dataclass
class PlacesAsked:
    """A gradient that answers truthfully without noise, and remembers where it was asked."""

    task: Task
    body: Body
    labels: tuple[str, ...]
    asked: list[tuple[Parameters, tuple[int, ...]]] = field(default_factory=list)

    def __call__(self, at: Parameters, classes: Sequence[int]) -> Parameters:
        """Return the mean clipped gradient."""
        self.asked.append((at, tuple(classes)))
        return answer_without_noise(self.body, self.task, self.labels, at, classes)


def dp_sgd_sums(
    body: Body, task: Task, learner: LearnerSettings, *, steps: int = STEPS
) -> list[VectorSum]:
    """Return one sum per noised step, each at the place to which the learner goes on ``task``."""
    labels = task.label_names
    places = PlacesAsked(task, body, labels)
    work = NoisedWork(len(labels), steps, places, head_seed=0, rng=np.random.default_rng(0))
    build_noised_learner(learner).noised_delta(body, body.initial_parameters(), work)

    def sum_at(at: Parameters, classes: tuple[int, ...]) -> VectorSum:
        def vector_sum(world: Task) -> dict[str, NDArray[np.floating]]:
            return leaves_of(answer_without_noise(body, world, labels, at, classes))

        return vector_sum

    return [sum_at(at, classes) for at, classes in places.asked]


def block_sum(body: Body, learner: LearnerSettings) -> VectorSum:
    """Return the sum over blocks of the learner's clipped deltas."""

    def vector_sum(world: Task) -> dict[str, NDArray[np.floating]]:
        terms = Terms(BLOCK, 1.0, 1.0, 1, TIGHT_NORM, divisor=1.0)
        released = block_release(
            body,
            body.initial_parameters(),
            world,
            build_learner(learner),
            NoisedSums(terms, NoNoise(), TIGHT_NORM),
            blocks=BLOCKS,
            block_key=BLOCK_KEY,
            seed=(0,),
        )
        return {name: leaf.astype(np.float64) for name, leaf in released.items()}

    return vector_sum


def leaves_of(answer: Parameters) -> dict[str, NDArray[np.floating]]:
    """Return body and head as float64 arrays."""
    leaves = {**answer.body, "head.weight": answer.head.weight, "head.bias": answer.head.bias}
    return {name: leaf.numpy().astype(np.float64) for name, leaf in leaves.items()}


def answer_without_noise(
    body: Body,
    task: Task,
    labels: tuple[str, ...],
    at: Parameters,
    classes: Sequence[int],
    max_grad_norm: float = TIGHT_NORM,
) -> Parameters:
    """Return the product's sum of the clipped gradients of all patients of ``task``."""
    terms = Terms(DP_SGD, 1.0, 1.0, 1, max_grad_norm, divisor=1.0)
    gradient = PatientGradients(
        body,
        Cohort.of(task, labels),
        NoisedSums(terms, NoNoise(), max_grad_norm),
        images_per_patient=IMAGES_PER_PATIENT,
        augment="dihedral",
    )
    return gradient(at, classes)
