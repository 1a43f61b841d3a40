"""Matching networks: attention over the support images, by cosine; each votes for its class.

Vinyals et al. 2016, arXiv:1606.04080, equation 1 and section 2.1.1:

    a(x, s_i) = softmax_i( cos(f(x), g(s_i)) / temperature )
    p(y = k | x) = sum of a(x, s_i) over the support images s_i of class k

    delta = - mean over episodes of grad_theta [ - log p(y | x), mean over the query ]

f = g = the body, or, with ``full_context``, both are functions of the whole support set
(metaward.meta.full_context). The logit of class k is log sum exp of its images' cosines, divided by
the temperature: its softmax is p, and no probability has to be kept from 0 before its logarithm.
With ``loss: margin`` the loss is a hinge on these logits (metaward.meta.episode_loss).

The paper has no temperature. Without one no image can have more than e^2 times the attention of
another. There is no inner loop: a new site adapts by embedding its support set. A delta is a
direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import MatchingSettings
from metaward.meta.by_class import by_class, features_and_labels, kept_features
from metaward.meta.classifier import Classifier
from metaward.meta.episode_loss import query_loss
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.full_context import build_context, embedded, in_canonical_order
from metaward.meta.head import CosineHead, directions_of
from metaward.meta.learner import Learner, LocalResult, downhill, mean_result, tracked
from metaward.models.body import Body
from metaward.tasks import Task
from metaward.theta import own_leaves, own_of_module


def task_delta(
    body: Body, theta: Tensors, episode: Episode, settings: MatchingSettings
) -> LocalResult:
    """Return minus the gradient of one episode's query loss, a direction to ADD to theta."""
    leaves = tracked(theta)
    support = in_canonical_order(episode.support)
    features = body.apply_with(leaves, torch.cat([support.images, episode.query.images]))
    seen, asked = features.tensor_split([len(support.labels)])
    logits = class_logits(leaves, seen, asked, support.labels, support.n_way, settings)
    return downhill(
        leaves, query_loss(logits, episode.query.labels, settings.loss, settings.margin)
    )


def class_logits(
    theta: Tensors,
    seen: torch.Tensor,
    asked: torch.Tensor,
    labels: torch.Tensor,
    n_way: int,
    settings: MatchingSettings,
) -> torch.Tensor:
    """Return log p(y = k | x) up to a constant of x, (n_query, n_way).

    Args:
        theta: Meta-parameters, for the learner's own leaves.
        seen: (n_support, d) features of the support set, in its canonical order.
        asked: (n_query, d) features.
        labels: (n_support,) of the support set, in the same order.
        n_way: Number of classes.
        settings: Of the learner.
    """
    if settings.full_context:
        seen, asked = embedded(own_leaves(theta), seen, asked, settings.processing_steps)
    attention = CosineHead(directions_of(seen), settings.temperature)(asked)
    return by_class(attention, labels, n_way).logsumexp(dim=2)


@dataclass(frozen=True)
class Matching(Learner):
    """The learner: episodes while meta-training, the support set itself at a new site."""

    settings: MatchingSettings

    def own_parameters(self, body: Body, seed: int) -> Tensors:
        """Return the leaves of the context's networks, if there is one."""
        if not self.settings.full_context:
            return {}
        networks = build_context(body.features, self.settings.processing_steps, seed)
        return own_of_module(networks)

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
        support = in_canonical_order(support)
        with torch.no_grad():
            seen = body.apply_with(theta, support.images)
        return self.classifier(body, theta, kept_features(seen, support.labels, support.n_way))

    def classifier(self, body: Body, theta: Tensors, kept: Tensors) -> Classifier:
        """Return the classifier of kept features; see :class:`metaward.meta.learner.Learner`."""
        seen, labels, n_way = features_and_labels(kept)

        def answer(images: torch.Tensor) -> torch.Tensor:
            asked = body.apply_with(theta, images)
            return class_logits(theta, seen, asked, labels, n_way, self.settings)

        return Classifier(kept, answer)
