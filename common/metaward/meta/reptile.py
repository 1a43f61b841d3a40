"""Reptile: move the meta-parameters towards the parameters that each task adapts to.

Nichol, Achiam and Schulman 2018, arXiv:1803.02999, batched form (section 2):

    delta_i = phi_i - theta,     theta <- theta + step_size * mean_i delta_i

A delta is a direction to add. The head is made from the episode's support set and dropped.

The inner loop takes plain SGD steps, or Adam's with beta1 = 0, as the paper's appendix has it. The
body's second moments are then kept over the episodes of one round and start anew with the next, so
that a site holds nothing between rounds; the head's start with each head. A new site adapts by the
same kind of steps, from moments that are fresh.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.augmentation import augmented
from metaward.episodes import Examples, sample_support, ways_within
from metaward.learner_settings import ReptileSettings
from metaward.meta.adam_steps import AdamSteps
from metaward.meta.classifier import Classifier, kept_of
from metaward.meta.inner_loop import adapt_on_support, inner_loop
from metaward.meta.learner import Learner, LocalResult, mean_result
from metaward.meta.meta_batch import mean_over_tasks
from metaward.meta.meta_gradient import start_of
from metaward.meta.minibatches import minibatches
from metaward.meta.noised import NoisedWork, descend, drawn_classes
from metaward.models.body import Body
from metaward.tasks import Task


def task_delta(
    body: Body,
    theta: Tensors,
    support: Examples,
    settings: ReptileSettings,
    rng: np.random.Generator,
    adam: AdamSteps | None = None,
) -> LocalResult:
    """Return ``phi - theta`` after ``inner_steps`` mini-batch steps, a direction to ADD.

    Args:
        body: The network.
        theta: The meta-parameters.
        support: The episode; Reptile has no query.
        settings: Steps, rate and size of the mini-batches.
        rng: Draws and augments the mini-batches.
        adam: Second moments to go on from, which are changed; left out: plain SGD.
    """
    return moved(body, theta, support, drawn_batches(support, settings, rng), settings, adam)


def drawn_batches(
    support: Examples, settings: ReptileSettings, rng: np.random.Generator
) -> list[Examples]:
    """Return the mini-batches of a task's steps."""
    drawn = minibatches(support, settings.inner_batch, settings.inner_steps, rng)
    return [augmented(batch, settings.augment, rng) for batch in drawn]


def moved(
    body: Body,
    theta: Tensors,
    support: Examples,
    batches: Sequence[Examples],
    settings: ReptileSettings,
    adam: AdamSteps | None = None,
) -> LocalResult:
    """Return ``phi - theta`` after a step on each batch, from the head that the support gives."""
    with torch.no_grad():
        head = start_of(body, theta, support, settings.adapt.head).head
    adapted = inner_loop(body, theta, head, batches, lr=settings.inner_lr, adam=adam)
    delta = {name: adapted.phi[name].detach() - leaf.detach() for name, leaf in theta.items()}
    return LocalResult(delta, adapted.loss)


@dataclass(frozen=True)
class Reptile(Learner):
    """The learner: adapts to episodes of a site's task, averages where they lead."""

    settings: ReptileSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean of ``phi - theta`` over ``settings.episodes`` fresh episodes."""
        s = self.settings
        n_way = self._n_way(task)
        supports = (
            sample_support(task, n_way=n_way, n_shot=s.n_shot, rng=rng) for _ in range(s.episodes)
        )
        adam = self._fresh_adam()
        if adam is None:
            tasks = ((support, *drawn_batches(support, s, rng)) for support in supports)
            return mean_over_tasks(
                body, theta, tasks, lambda leaves, own: moved(body, leaves, own[0], own[1:], s)
            )
        return mean_result(
            task_delta(body, theta, support, s, rng, adam.for_a_new_head()) for support in supports
        )

    def noised_delta(self, body: Body, theta: Tensors, work: NoisedWork) -> Tensors:
        """Return ``phi - theta`` after SGD on noised gradients of one task: some of the labels."""
        classes = drawn_classes(work.n_labels, self.settings.n_way, work.rng)
        adapted = descend(body, theta, classes, work, lr=self.settings.inner_lr, steps=work.steps)
        return {name: adapted.body[name] - leaf for name, leaf in theta.items()}

    def require_fit(self, task: Task) -> None:
        """Check that the task gives supports; see :class:`metaward.meta.learner.Learner`."""
        self._n_way(task)

    def _n_way(self, task: Task) -> int:
        return ways_within(task, self.settings.n_way, n_shot=self.settings.n_shot, n_query=0)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Fine-tune on the support set; see :class:`metaward.meta.learner.Learner`."""
        adapted = adapt_on_support(
            body, theta, support, self.settings.adapt, adam=self._fresh_adam()
        )
        return self.classifier(body, theta, kept_of(adapted))

    def _fresh_adam(self) -> AdamSteps | None:
        return AdamSteps() if self.settings.inner_optimizer == "adam" else None
