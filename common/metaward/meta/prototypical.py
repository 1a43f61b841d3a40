"""Prototypical networks: classify by the squared distance to the mean feature of each class.

Snell, Swersky and Zemel 2017, arXiv:1703.05175, equations 1 and 2:

    c_k = mean of f(x) over the support of class k
    log p(y = k | x) = log softmax_k(-||f(x) - c_k||^2 / sqrt(d)),   d features

    delta = - mean over episodes of grad_theta [ - log p(y | x), mean over the query ]

With ``distance: cosine`` the logits are cos(f(x), c_k) / temperature in the place of the distances.
With ``loss: margin`` the loss is a hinge on the same logits (metaward.meta.episode_loss).

Without a patient's data, from noised answers (metaward.meta.noised), and for the paper's distance
and loss alone: the prototypes are those of noised class sums, and the gradient of the query's loss
is taken with the prototypes held still, so that it is a sum over patients. Patients of a label that
is more than equally frequent weigh less, so that each label has at most an equal part in the loss,
as it has in an episode.

The division by sqrt(d) keeps the softmax of an untrained body from saturating (at 32 x 32 and 32
filters d is 128; at 128 x 128 it is 2048, and logits still grow like its root); the paper has none,
and the body can learn any scale. There is no inner loop: a new site adapts by taking means. A delta
is a direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import PrototypicalSettings
from metaward.meta.classifier import Classifier, kept_head, linear_classifier
from metaward.meta.episode_loss import query_loss
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.head import (
    CosineHead,
    Head,
    directions_of,
    distance_head,
    prototype_head,
    prototypes,
)
from metaward.meta.learner import Learner, LocalResult, downhill, tracked
from metaward.meta.meta_batch import mean_over_episodes
from metaward.meta.noised import ClassSums, NoisedWork
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.tasks import Task

AS_IN_THE_PAPER = PrototypicalSettings()
DIRECTIONS = "directions"
"""What a classifier by cosines keeps: (n_way, n_features), see :class:`CosineHead`."""


def task_delta(
    body: Body, theta: Tensors, episode: Episode, settings: PrototypicalSettings = AS_IN_THE_PAPER
) -> LocalResult:
    """Return minus the gradient of one episode's query loss, a direction to ADD to theta."""
    leaves = tracked(theta)
    support, query = episode.support, episode.query
    features = body.apply_with(leaves, torch.cat([support.images, query.images], dim=-4))
    seen, asked = features.tensor_split([support.labels.shape[-1]], dim=-2)
    head = class_head(seen, support, settings)
    loss = query_loss(head(asked), query.labels, settings.loss, settings.margin)
    return downhill(leaves, loss)


def class_head(
    features: torch.Tensor, support: Examples, settings: PrototypicalSettings
) -> Head | CosineHead:
    """Return what gives logits by the distance to the class means of the support's features."""
    match settings.distance:
        case "squared-euclidean":
            return prototype_head(features, support.labels, support.n_way)
        case "cosine":
            centres = prototypes(features, support.labels, support.n_way)
            return CosineHead(directions_of(centres), settings.temperature)


LEAST_PART = 0.2
"""Of an equal share of the population: a label with fewer patients than that is counted as having
them, or noise would be divided by next to nothing."""


def noised_prototypes(sums: ClassSums) -> torch.Tensor:
    """Return the mean feature of each label, (n_labels, n_features), from noised sums."""
    least = LEAST_PART / len(sums.patients)
    return sums.features / sums.patients.clamp_min(least)[:, None]


def fair_weights(sums: ClassSums) -> torch.Tensor:
    """Return what patients of each label weigh, (n_labels,) in (0, 1]: 1 up to an equal share.

    >>> fair_weights(ClassSums(torch.zeros(2, 1), torch.tensor([0.75, 0.25]))).tolist()
    [0.6666666865348816, 1.0]
    """
    patients = sums.patients.clamp_min(0.0)
    equal = patients.sum() / len(patients)
    return torch.where(patients > equal, equal / patients.clamp_min(1e-12), 1.0)


@dataclass(frozen=True)
class Prototypical(Learner):
    """The learner: episodes while meta-training, class means at a new site."""

    settings: PrototypicalSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes."""
        return mean_over_episodes(
            body,
            theta,
            draw_episodes(task, self.settings, rng),
            lambda leaves, episode: task_delta(body, leaves, episode, self.settings),
            apart=False,
        )

    def noised_delta(self, body: Body, theta: Tensors, work: NoisedWork) -> Tensors:  # noqa: ARG002 (signature of every noised learner)
        """Return minus the noised gradient against noised prototypes, a direction to ADD.

        The first answer makes the prototypes; the others are gradients at theta, and averaged.
        """
        sums = work.answers.class_sums(theta)
        at = Parameters(theta, distance_head(noised_prototypes(sums)))
        weights, everything = fair_weights(sums), range(work.n_labels)
        answers = [work.answers.gradient(at, everything, weights) for _ in range(work.steps - 1)]
        return {
            name: -torch.stack([answer[name] for answer in answers]).mean(dim=0) for name in theta
        }

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Take the mean feature of each class; see :class:`metaward.meta.learner.Learner`."""
        support.require_every_class()
        with torch.no_grad():
            features = body.apply_with(theta, support.images)
            head = class_head(features, support, self.settings)
        kept = kept_head(head) if isinstance(head, Head) else {DIRECTIONS: head.directions}
        return self.classifier(body, theta, kept)

    def classifier(self, body: Body, theta: Tensors, kept: Tensors) -> Classifier:
        """Return the classifier of kept class means; see :class:`metaward.meta.learner.Learner`."""
        if self.settings.distance == "squared-euclidean":
            return linear_classifier(body, theta, kept)
        head = CosineHead(kept[DIRECTIONS], self.settings.temperature)
        return Classifier(kept, lambda images: head(body.apply_with(theta, images)))
