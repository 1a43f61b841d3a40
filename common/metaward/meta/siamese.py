"""Siamese networks: learn which two images show the same finding; the most alike image decides.

With ``loss: cross-entropy`` (Koch, Zemel and Salakhutdinov 2015, Siamese neural networks for
one-shot image recognition, ICML workshop, sections 3.1 and 3.2), alpha and b being leaves of theta:

    z(x, s) = b + sum over features j of alpha_j |f(x)_j - f(s)_j|      p(same) = sigmoid(z)
    loss of a pair = - log p where the labels are the same, - log(1 - p) where they differ

With ``loss: contrastive`` (Hadsell, Chopra and LeCun 2006, CVPR, equation 4):

    D(x, s) = ||f(x) - f(s)|| / sqrt(d),   d features
    loss of a pair = D^2 / 2 where the labels are the same, max(0, margin - D)^2 / 2 otherwise

The pairs of an episode are all of a query image with a support image, which are never of one
patient. Pairs of either kind have half of the loss, as if equally many were drawn:

    L = half the mean over pairs of the same label + half the mean over pairs of different ones
    delta = - mean over episodes of grad_theta L

A new site keeps its support set, and the image that is most like the query speaks for its class.
Its logit is z, in front of the sigmoid (metaward.meta.relation says why); for contrastive, it is
- ||f(x) - f(s)||^2 / sqrt(d), which with one image per class is a prototypical network.

What is not in the papers: Koch's p has no b, without which it could not be above 1/2 for equal
images as alpha_j < 0. Their decay of weights is left out. D is divided by sqrt(d), so that a margin
means the same for every body. A delta is a direction to add.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import SiameseSettings
from metaward.meta.by_class import by_class, features_and_labels, kept_features
from metaward.meta.classifier import Classifier
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.learner import Learner, LocalResult, downhill, mean_result, tracked
from metaward.models.body import Body
from metaward.tasks import Task
from metaward.theta import named_as_own, own_leaves

HALF_WAY = 0.28
"""Half of the mean distance of two rectified standard normal numbers, 0.56: about how far apart
features behind a norm and a ReLU are for images that have nothing in common."""


def task_delta(
    body: Body, theta: Tensors, episode: Episode, settings: SiameseSettings
) -> LocalResult:
    """Return minus the gradient of one episode's loss over pairs, a direction to ADD to theta."""
    leaves = tracked(theta)
    support, query = episode.support, episode.query
    features = body.apply_with(leaves, torch.cat([support.images, query.images]))
    seen, asked = features.tensor_split([len(support.labels)])
    same = query.labels[:, None] == support.labels[None, :]
    losses = pair_losses(leaves, differences(seen, asked), same, settings)
    return downhill(leaves, (losses[same].mean() + losses[~same].mean()) / 2)


def differences(seen: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Return f(x) - f(s) for each query x and support image s, (n_query, n_support, d)."""
    return asked[:, None, :] - seen[None, :, :]


def pair_losses(
    theta: Tensors, apart: torch.Tensor, same: torch.Tensor, settings: SiameseSettings
) -> torch.Tensor:
    """Return the loss of each pair, (n_query, n_support).

    Args:
        theta: Meta-parameters, for the learner's own leaves.
        apart: See :func:`differences`.
        same: (n_query, n_support) bool, whether the labels are the same.
        settings: Of the learner.
    """
    match settings.loss:
        case "cross-entropy":
            z = likeness(theta, apart)
            return F.binary_cross_entropy_with_logits(z, same.to(z.dtype), reduction="none")
        case "contrastive":
            # vector_norm has a gradient of 0 where the features are equal; a root would have none
            distance = torch.linalg.vector_norm(apart, dim=2) / math.sqrt(apart.shape[2])
            too_near = F.relu(settings.margin - distance)
            return torch.where(same, distance, too_near).square() / 2


def likeness(theta: Tensors, apart: torch.Tensor) -> torch.Tensor:
    """Return z of each pair, (n_query, n_support)."""
    own = own_leaves(theta)
    return apart.abs() @ own["weight"] + own["bias"]


@dataclass(frozen=True)
class Siamese(Learner):
    """The learner: pairs of episodes while meta-training, the support set at a new site."""

    settings: SiameseSettings

    def own_parameters(self, body: Body, seed: int) -> Tensors:  # noqa: ARG002 (nothing is drawn)
        """Return alpha and b, half-way between equal images and strangers; contrastive has none."""
        if self.settings.loss == "contrastive":
            return {}
        root = math.sqrt(body.features)
        weight = torch.full((body.features,), -1 / root)
        return named_as_own({"weight": weight, "bias": torch.full((1,), HALF_WAY * root)})

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes."""
        episodes = draw_episodes(task, self.settings, rng)
        return mean_result(task_delta(body, theta, episode, self.settings) for episode in episodes)

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Keep the support set's features; see :class:`metaward.meta.learner.Learner`."""
        support.require_every_class()
        with torch.no_grad():
            seen = body.apply_with(theta, support.images)
        return self.classifier(body, theta, kept_features(seen, support.labels, support.n_way))

    def classifier(self, body: Body, theta: Tensors, kept: Tensors) -> Classifier:
        """Return the classifier of kept features; see :class:`metaward.meta.learner.Learner`."""
        seen, labels, n_way = features_and_labels(kept)

        def answer(images: torch.Tensor) -> torch.Tensor:
            apart = differences(seen, body.apply_with(theta, images))
            return by_class(self._scores(theta, apart), labels, n_way).amax(dim=2)

        return Classifier(kept, answer)

    def _scores(self, theta: Tensors, apart: torch.Tensor) -> torch.Tensor:
        if self.settings.loss == "cross-entropy":
            return likeness(theta, apart)
        return -apart.square().sum(dim=2) / math.sqrt(apart.shape[2])
