"""What every learner gives: a delta from a site's task, and a classifier from a support set."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.classifier import Classifier, linear_classifier
from metaward.models.body import Body
from metaward.tasks import Task


@dataclass(frozen=True)
class LocalResult:
    """What one site computed in one round.

    Attributes:
        delta: Direction to ADD to theta, leaf by leaf.
        loss: Mean loss over the site's own images. Stays at the site.
    """

    delta: Tensors
    loss: float


class Learner(Protocol):
    """One algorithm. Holds settings, no state between calls."""

    def own_parameters(self, body: Body, seed: int) -> Tensors:  # noqa: ARG002 (for those who have)
        """Return the learner's own leaves before round 0, named by :mod:`metaward.theta`.

        A function of the settings, the body's form and ``seed`` alone; most learners have none.
        """
        return {}

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the direction in which this site would move ``theta``.

        Raises:
            DataError: The task cannot give what the learner needs; the message says how many
                patients of which label are missing.
        """
        ...

    def require_fit(self, task: Task) -> None:
        """Check that the task can give what :meth:`local_delta` needs.

        Raises:
            DataError: As :meth:`local_delta` would.
        """
        ...

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Return a classifier for the classes of ``support``; ``theta`` is left as it is.

        Raises:
            DataError: One of the ``n_way`` classes has no image.
        """
        ...

    def classifier(self, body: Body, theta: Tensors, kept: Tensors) -> Classifier:
        """Return again the classifier that :meth:`adapt` returned, from what it kept.

        Most learners keep a linear head, and the leaves of the body that they adapted.
        """
        return linear_classifier(body, theta, kept)


def tracked(theta: Tensors) -> Tensors:
    """Return theta as leaves that gradients can be taken with respect to; memory is shared."""
    return {name: leaf.detach().requires_grad_() for name, leaf in theta.items()}


def downhill(leaves: Tensors, loss: torch.Tensor) -> LocalResult:
    """Return minus the gradient of a loss that was computed from ``leaves``: a direction to ADD."""
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    delta = {name: -gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return LocalResult(delta, float(loss.detach()))


def mean_result(results: Iterable[LocalResult]) -> LocalResult:
    """Average deltas and losses, leaf by leaf, in the order given; one result is held at a time."""
    ordered = iter(results)
    first = next(ordered)
    total = {name: leaf.clone() for name, leaf in first.delta.items()}
    n, loss = 1, first.loss
    for result in ordered:
        for name, leaf in result.delta.items():
            total[name] += leaf
        n, loss = n + 1, loss + result.loss
    return LocalResult({name: leaf / n for name, leaf in total.items()}, loss / n)
