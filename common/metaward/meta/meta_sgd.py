"""Meta-SGD: MAML with inner learning rates that are learned along with theta.

Li et al. 2017, arXiv:1707.09835, equations 2 and 3, with one step or more:

    phi_0 = theta,   phi_{k+1} = phi_k - alpha o grad L(phi_k; support),   k = 0 .. K-1
    delta = - mean over episodes of grad_(theta, alpha) L(phi_K; query)

o multiplies number by number. The gradient is exact for both: with one step, that of alpha is
- grad L(phi_1; query) o grad L(phi_0; support), which is not theta's.

alpha are leaves of theta beside the body's (metaward.theta): one for each number of the body, or
one for each of its leaves. The head has no size that all sites share, so it has two, for weight
and bias. A rate may become negative, as in the paper: along it, a step then goes uphill, because
that has helped the query. A delta is a direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import MetaSgdSettings
from metaward.meta.classifier import Classifier, kept_of
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.head import Head
from metaward.meta.inner_loop import episode_loss, inner_loop
from metaward.meta.learner import (
    Learner,
    LocalResult,
    downhill,
    mean_result,
    tracked,
)
from metaward.meta.meta_gradient import start_of, unrolled
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.tasks import Task
from metaward.theta import body_leaves, named_as_own, own_leaves

BODY_RATE, HEAD_WEIGHT_RATE, HEAD_BIAS_RATE = "rate.body.", "rate.head.weight", "rate.head.bias"
SCALAR = torch.Size([1])
"""Of a rate for a whole leaf; see :func:`metaward.theta.named_as_own`."""


def first_rates(body: Body, settings: MetaSgdSettings) -> Tensors:
    """Return the rates before round 0, all ``inner_lr``, by their names among the own leaves."""
    per_number = settings.rates == "parameter"
    shapes = {
        BODY_RATE + name: leaf.shape if per_number else SCALAR
        for name, leaf in body.named_parameters()
    }
    shapes |= {HEAD_WEIGHT_RATE: SCALAR, HEAD_BIAS_RATE: SCALAR}
    return {name: torch.full(shape, settings.inner_lr) for name, shape in shapes.items()}


def rates_of(theta: Tensors) -> Parameters:
    """Return alpha: for each leaf of body and head a rate of its shape, or one for all of it."""
    own = own_leaves(theta)
    body = {name: own[BODY_RATE + name] for name in body_leaves(theta)}
    return Parameters(body, Head(own[HEAD_WEIGHT_RATE], own[HEAD_BIAS_RATE]))


def task_delta(
    body: Body, theta: Tensors, episode: Episode, settings: MetaSgdSettings
) -> LocalResult:
    """Return minus the meta-gradient of one episode for theta and alpha, a direction to ADD."""
    leaves = tracked(theta)
    start = start_of(body, body_leaves(leaves), episode.support, settings.head)
    rates, steps = rates_of(leaves), settings.inner_steps
    end = unrolled(body, start, episode.support, lr=rates, steps=steps)
    loss = episode_loss(body, end.body, end.head, episode.query)
    return downhill(leaves, loss)


@dataclass(frozen=True)
class MetaSgd(Learner):
    """The learner: draws episodes from a site's task, averages their deltas."""

    settings: MetaSgdSettings

    def own_parameters(self, body: Body, seed: int) -> Tensors:  # noqa: ARG002 (nothing is drawn)
        """Return the rates before round 0; see :class:`metaward.meta.learner.Learner`."""
        return named_as_own(first_rates(body, self.settings))

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
        """Take ``inner_steps`` steps at the learned rates, as in training."""
        support.require_every_class()
        shared = body_leaves(theta)
        start = start_of(body, shared, support, self.settings.head)
        batches = [support] * self.settings.inner_steps
        adapted = inner_loop(body, shared, start.head, batches, lr=rates_of(theta))
        return self.classifier(body, theta, kept_of(adapted))
