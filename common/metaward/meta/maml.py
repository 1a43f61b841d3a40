"""MAML: the exact gradient of the query's loss, through the inner loop.

Finn, Abbeel and Levine 2017, arXiv:1703.03400, algorithm 2 and equation 1:

    phi_0 = theta,   phi_{k+1} = phi_k - inner_lr * grad L(phi_k; support),   k = 0 .. K-1
    delta = - mean over episodes of grad_theta L(phi_K; query)

phi is body and head together. A head of prototypes is a function of theta, and the gradient goes
through it too (Proto-MAML: Triantafillou et al. 2020, arXiv:1903.03096, section 3). With H(phi)
the Hessian of L(phi; support), that gradient is v_0, carried back to theta, of

    v_K = grad L(phi_K; query),   v_k = v_{k+1} - inner_lr * H(phi_k) v_{k+1}

FOMAML takes H for zero. The same numbers are found in two ways: from the graph of all steps, or
with ``checkpoint`` step by step from the end, of which only phi_0 .. phi_K are kept and each
step's graph is made anew. A delta is a direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import MamlSettings
from metaward.meta.classifier import Classifier, kept_of
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.inner_loop import adapt_on_support, episode_loss, loss_and_gradient
from metaward.meta.learner import (
    Learner,
    LocalResult,
    tracked,
)
from metaward.meta.meta_batch import mean_over_episodes
from metaward.meta.meta_gradient import back_to_theta, minus, start_of, unrolled
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.tasks import Task

GRAPHS_OF_A_STEP = 3
"""Forward, backward, and the backward of that: what a step that is differentiated holds."""


def task_delta(body: Body, theta: Tensors, episode: Episode, settings: MamlSettings) -> LocalResult:
    """Return minus the meta-gradient of one episode, a direction to ADD to theta."""
    start = start_of(body, tracked(theta), episode.support, settings.adapt.head)
    differentiate = step_by_step if settings.checkpoint else in_one_graph
    loss, gradient = differentiate(body, start, episode, settings)
    return LocalResult(minus(gradient), float(loss.detach()))


def in_one_graph(
    body: Body, start: Parameters, episode: Episode, settings: MamlSettings
) -> tuple[torch.Tensor, Tensors]:
    """Return the query's loss and its gradient in theta; all inner steps are held in memory."""
    end = unrolled(body, start, episode.support, lr=settings.inner_lr, steps=settings.inner_steps)
    loss = episode_loss(body, end.body, end.head, episode.query)
    gradient = torch.autograd.grad(loss, list(start.body.values()))
    return loss, dict(zip(start.body, gradient, strict=True))


def step_by_step(
    body: Body, start: Parameters, episode: Episode, settings: MamlSettings
) -> tuple[torch.Tensor, Tensors]:
    """Return the same as :func:`in_one_graph`; one inner step at a time is held in memory."""
    path = [start.detached()]
    for _ in range(settings.inner_steps):
        _, gradient = loss_and_gradient(body, path[-1], episode.support)
        path.append(path[-1].stepped(gradient, settings.inner_lr).detached())
    loss, v = loss_and_gradient(body, path.pop(), episode.query)
    for phi in reversed(path):
        v = v.stepped(hessian_times(v, body, phi, episode.support), settings.inner_lr)
    return loss, back_to_theta(start, v)


def hessian_times(v: Parameters, body: Body, phi: Parameters, support: Examples) -> Parameters:
    """Return H(phi) v, without ever forming H (Pearlmutter 1994)."""
    _, gradient = loss_and_gradient(body, phi, support, create_graph=True)
    return phi.holding(torch.autograd.grad(gradient.leaves(), phi.leaves(), v.leaves()))


@dataclass(frozen=True)
class Maml(Learner):
    """The learner: draws episodes from a site's task, averages their deltas."""

    settings: MamlSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes."""
        return mean_over_episodes(
            body,
            theta,
            draw_episodes(task, self.settings, rng),
            lambda leaves, episode: task_delta(body, leaves, episode, self.settings),
            passes_held=GRAPHS_OF_A_STEP
            * (1 if self.settings.checkpoint else self.settings.inner_steps),
        )

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Fine-tune on the support set; see :class:`metaward.meta.learner.Learner`."""
        adapted = adapt_on_support(body, theta, support, self.settings.adapt)
        return self.classifier(body, theta, kept_of(adapted))
