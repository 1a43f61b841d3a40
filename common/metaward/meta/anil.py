"""ANIL: the inner loop moves the head alone, on features that are computed once.

Raghu et al. 2020, arXiv:1909.09157, section 4 (almost no inner loop):

    F_S = f_theta(support),   F_Q = f_theta(query)
    head_{k+1} = head_k - inner_lr * grad_head L(head_k; F_S),   k = 0 .. K-1
    delta = - mean over episodes of grad_theta L(head_K; F_Q)

The gradient is exact, second order included: theta acts through the query's features, through the
support's features in every inner step, and through a head of prototypes (metaward.meta.head). The
network runs once forward and once back whatever K is. A delta is a direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import AnilSettings
from metaward.meta.classifier import Classifier, kept_head
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.inner_loop import adapt_on_support, episode_loss
from metaward.meta.learner import (
    Learner,
    LocalResult,
    downhill,
    mean_result,
    tracked,
)
from metaward.meta.meta_gradient import start_of, unrolled
from metaward.models.body import Body
from metaward.tasks import Task


class OnFeatures(Body):
    """The body of ANIL's inner loop, which has features for images: no leaves, and no work."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (n, features) as they are."""
        return features


def task_delta(body: Body, theta: Tensors, episode: Episode, settings: AnilSettings) -> LocalResult:
    """Return minus the meta-gradient of one episode, a direction to ADD to theta."""
    leaves = tracked(theta)
    support, query = features_of(body, leaves, episode.support, episode.query)
    identity = OnFeatures(body.features)
    start = start_of(identity, {}, support, settings.adapt.head)
    end = unrolled(identity, start, support, lr=settings.inner_lr, steps=settings.inner_steps)
    loss = episode_loss(identity, {}, end.head, query)
    return downhill(leaves, loss)


def features_of(body: Body, theta: Tensors, *examples: Examples) -> list[Examples]:
    """Return the examples with features (n, features) for images, from one pass of the body."""
    features = body.apply_with(theta, torch.cat([given.images for given in examples]))
    parts = torch.split(features, [len(given.labels) for given in examples])
    return [Examples(part, g.labels, g.n_way) for part, g in zip(parts, examples, strict=True)]


@dataclass(frozen=True)
class Anil(Learner):
    """The learner: draws episodes from a site's task, averages their deltas."""

    settings: AnilSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes, one after the other."""
        episodes = draw_episodes(task, self.settings, rng)
        return mean_result(task_delta(body, theta, episode, self.settings) for episode in episodes)

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Train a head on the support's features; see :class:`metaward.meta.learner.Learner`."""
        with torch.no_grad():
            (features,) = features_of(body, theta, support)
        adapted = adapt_on_support(OnFeatures(body.features), {}, features, self.settings.adapt)
        return self.classifier(body, theta, kept_head(adapted.head))
