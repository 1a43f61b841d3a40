"""Prototypical networks: classify by the squared distance to the mean feature of each class.

Snell, Swersky and Zemel 2017, arXiv:1703.05175, equations 1 and 2:

    c_k = mean of f(x) over the support of class k
    log p(y = k | x) = log softmax_k(-||f(x) - c_k||^2 / sqrt(d)),   d features

    delta = - mean over episodes of grad_theta [ - log p(y | x), mean over the query ]

The division by sqrt(d) keeps the softmax of an untrained body from saturating; the paper has
none, and the body can learn any scale. There is no inner loop: a new site adapts by taking means.
A delta is a direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.head import prototype_head
from metaward.meta.learner import Classifier, LocalResult, mean_result
from metaward.models.body import Body
from metaward.study import PrototypicalSettings
from metaward.tasks import Task


def task_delta(body: Body, theta: Tensors, episode: Episode) -> LocalResult:
    """Return minus the gradient of one episode's query loss, a direction to ADD to theta."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in theta.items()}
    support, query = episode.support, episode.query
    features = body.apply_with(leaves, torch.cat([support.images, query.images]))
    n_support = len(support.labels)
    head = prototype_head(features[:n_support], support.labels, support.n_way)
    loss = F.cross_entropy(head(features[n_support:]), query.labels)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    delta = {name: -gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return LocalResult(delta, float(loss.detach()))


@dataclass(frozen=True)
class Prototypical:
    """The learner: episodes while meta-training, class means at a new site."""

    settings: PrototypicalSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes."""
        episodes = draw_episodes(task, self.settings, rng)
        return mean_result(task_delta(body, theta, episode) for episode in episodes)

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Take the mean feature of each class; see :class:`metaward.meta.learner.Learner`."""
        with torch.no_grad():
            features = body.apply_with(theta, support.images)
            head = prototype_head(features, support.labels, support.n_way)

        def classify(images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return head(body.apply_with(theta, images))

        return classify
