"""The sums of the product's two mechanisms, as functions of a data set, for the sensitivity check.

Every patient is drawn (sample rate 1), there is no noise, and the division is undone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.arrays import Tensors
from metaward.learner_settings import (
    AnilSettings,
    FedAvgSettings,
    FomamlSettings,
    HallucinationSettings,
    LearnerSettings,
    MamlSettings,
    MannSettings,
    MatchingSettings,
    MetaSgdSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
    SiameseSettings,
)
from metaward.meta.compose import build_learner, build_noised_learner
from metaward.meta.noised import ClassSums, NoisedWork
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.privacy_promise import BLOCK, DP_SGD
from metaward.tasks import Task
from metaward_client.privacy.block_release import block_release
from metaward_client.privacy.class_sums import FEATURE_PART, FEATURES, PATIENT_PART, PATIENTS
from metaward_client.privacy.cohort import Cohort
from metaward_client.privacy.dp_sgd import PatientAnswers
from metaward_client.privacy.noised_sum import NoisedSums
from metaward_client.privacy.terms import Terms
from metaward_client.privacy_audit.randomness import NoNoise
from metaward_client.privacy_audit.sensitivity import VectorSum

TIGHT_NORM = 0.01
"""C of the audit: below the norm of every patient's vector, so that clipping is always at work."""
IMAGES_PER_PATIENT = 4
STEPS = 3
BLOCKS = 2
BLOCK_KEY = bytes(32)

ALL_LABELS = 10_000
"""Classes of a task, all labels where there are fewer: a task of some of a site's labels would
mostly leave out that of the patient on whom the worlds differ, and show nothing."""

LEARNERS_OF_DP_SGD: tuple[LearnerSettings, ...] = (
    PrototypicalSettings(),
    FedAvgSettings(local_lr=1.0),
    ReptileSettings(n_way=ALL_LABELS, inner_lr=1.0),
    FomamlSettings(n_way=ALL_LABELS, inner_lr=1.0),
)
ONE_EPISODE: dict[str, Any] = {"n_way": 2, "n_shot": 1, "n_query": 1, "episodes": 1}
ALL_LEARNERS: tuple[LearnerSettings, ...] = (
    FedAvgSettings(local_steps=2, batch_size=8),
    ReptileSettings(n_way=2, n_shot=1, inner_steps=2, episodes=1),
    FomamlSettings(**ONE_EPISODE),
    PrototypicalSettings(**ONE_EPISODE),
    PrototypicalSettings(distance="cosine", loss="margin", **ONE_EPISODE),
    MatchingSettings(full_context=True, **ONE_EPISODE),
    RelationSettings(**ONE_EPISODE),
    SiameseSettings(**ONE_EPISODE),
    MannSettings(**ONE_EPISODE),
    HallucinationSettings(**ONE_EPISODE),
    MamlSettings(**ONE_EPISODE),
    AnilSettings(**ONE_EPISODE),
    MetaSgdSettings(**ONE_EPISODE),
)


@dataclass
class QuestionsAsked:
    """Answers truthfully without noise, and remembers each question as a function of the data."""

    task: Task
    body: Body
    labels: tuple[str, ...]
    asked: list[VectorSum] = field(default_factory=list)

    def gradient(
        self, at: Parameters, classes: Sequence[int], weights: torch.Tensor | None = None
    ) -> Tensors:
        """Return the sum of weighted clipped gradients."""

        def answer(world: Task) -> Tensors:
            answers = answers_without_noise(self.body, world, self.labels)
            return answers.gradient(at, classes, weights)

        self.asked.append(lambda world: wide(answer(world)))
        return answer(self.task)

    def class_sums(self, theta: Tensors) -> ClassSums:
        """Return the class sums, scaled back to what the patients' vectors add up to."""

        def vector_sum(world: Task) -> dict[str, NDArray[np.floating]]:
            sums = answers_without_noise(self.body, world, self.labels).class_sums(theta)
            unit = FEATURE_PART / math.sqrt(self.body.features)
            return wide(
                {
                    FEATURES: TIGHT_NORM * unit * sums.features,
                    PATIENTS: TIGHT_NORM * PATIENT_PART * sums.patients,
                }
            )

        self.asked.append(vector_sum)
        return answers_without_noise(self.body, self.task, self.labels).class_sums(theta)


def dp_sgd_sums(
    body: Body, task: Task, learner: LearnerSettings, *, steps: int = STEPS
) -> list[VectorSum]:
    """Return one sum per noised step, each at the place to which the learner goes on ``task``."""
    labels = task.label_names
    questions = QuestionsAsked(task, body, labels)
    work = NoisedWork(len(labels), steps, questions, head_seed=0, rng=np.random.default_rng(0))
    build_noised_learner(learner, steps).noised_delta(body, body.initial_parameters(), work)
    return questions.asked


def block_sum(body: Body, learner: LearnerSettings) -> VectorSum:
    """Return the sum over blocks of the learner's clipped deltas."""
    built = build_learner(learner)
    theta = body.initial_parameters() | built.own_parameters(body, seed=0)

    def vector_sum(world: Task) -> dict[str, NDArray[np.floating]]:
        terms = Terms(BLOCK, 1.0, 1.0, 1, TIGHT_NORM, divisor=1.0)
        released = block_release(
            body,
            theta,
            world,
            built,
            NoisedSums(terms, NoNoise(), TIGHT_NORM),
            blocks=BLOCKS,
            block_key=BLOCK_KEY,
            seed=(0,),
        )
        return {name: leaf.astype(np.float64) for name, leaf in released.items()}

    return vector_sum


def wide(leaves: Tensors) -> dict[str, NDArray[np.floating]]:
    """Return float64 arrays."""
    return {name: leaf.numpy().astype(np.float64) for name, leaf in leaves.items()}


def answers_without_noise(
    body: Body, task: Task, labels: tuple[str, ...], max_grad_norm: float = TIGHT_NORM
) -> PatientAnswers:
    """Return what answers with the product's sums over all patients of ``task``."""
    terms = Terms(DP_SGD, 1.0, 1.0, 1, max_grad_norm, divisor=1.0)
    return PatientAnswers(
        body,
        Cohort.of(task, labels),
        NoisedSums(terms, NoNoise(), max_grad_norm),
        images_per_patient=IMAGES_PER_PATIENT,
        augment="dihedral",
    )
