"""The inner loop: SGD on body and head, from theta, on one task's images.

    phi_0 = theta,   phi_{k+1} = phi_k - inner_lr * grad L(phi_k; batch_k)

L is the mean cross-entropy. Nothing is changed in place: ``theta`` is left as it is. Adam
(metaward.meta.adam_steps) rescales the gradient before the step.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.adam_steps import AdamSteps
from metaward.meta.head import Head, first_head
from metaward.meta.minibatches import minibatches
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.models.group_norm import gradients_are_differentiated


@dataclass(frozen=True)
class Adapted:
    """Where the inner loop arrived.

    Attributes:
        phi: Adapted body.
        head: Adapted head.
        loss: Mean loss over the steps, each before its step; nan without steps.
    """

    phi: Tensors
    head: Head
    loss: float


def features_under(body: Body, phi: Tensors, examples: Examples) -> torch.Tensor:
    """Return the features of a task's examples, or of each task's under parameters of its own."""
    if examples.n_tasks is None:
        return body.apply_with(phi, examples.images)
    return body.apply_each(phi, examples.images)


def episode_loss(body: Body, phi: Tensors, head: Head, examples: Examples) -> torch.Tensor:
    """Return the mean cross-entropy of the examples, a scalar; of several tasks, their sum.

    A sum, because its gradient at a task's own parameters is that of the task's own loss.
    """
    logits = head(features_under(body, phi, examples))
    return cross_entropy(logits, examples.labels)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean over the images of one task, (n, n_way); of several tasks, the sum of them.

    >>> one, other = torch.tensor([[0.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> labels = torch.tensor([0, 1])
    >>> both = cross_entropy(torch.stack([one, other]), torch.stack([labels, labels]))
    >>> bool(both.isclose(cross_entropy(one, labels) + cross_entropy(other, labels)))
    True
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return (
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]
    )


def loss_and_gradient(
    body: Body, at: Parameters, examples: Examples, *, create_graph: bool = False
) -> tuple[torch.Tensor, Parameters]:
    """Return the loss at ``at``, whose leaves track gradients, and its gradient there.

    Args:
        body: The network.
        at: Where.
        examples: Images and labels that the loss is the mean over.
        create_graph: Whether the gradient can be differentiated in turn.
    """
    with gradients_are_differentiated() if create_graph else nullcontext():
        loss = episode_loss(body, at.body, at.head, examples)
    gradient = torch.autograd.grad(loss, at.leaves(), create_graph=create_graph)
    return loss, at.holding(gradient)


def inner_loop(
    body: Body,
    theta: Tensors,
    head: Head,
    batches: Iterable[Examples],
    *,
    lr: float | Parameters,
    adam: AdamSteps | None = None,
) -> Adapted:
    """Take one step of SGD, or of Adam, on body and head for each batch.

    Args:
        body: The network; its own parameters are not used.
        theta: Where the body starts.
        head: Where the head starts.
        batches: One per step.
        lr: Inner learning rate of body and head, or one for each leaf or number.
        adam: Second moments to go on from; left out: plain SGD.
    """
    at = Parameters(theta, head).detached()
    losses = []
    for batch in batches:
        loss, gradient = loss_and_gradient(body, at, batch)
        if adam is not None:
            gradient = adam.rescaled(gradient)
        at = at.stepped(gradient, lr).detached()
        losses.append(loss.detach())  # not a number yet: to ask an accelerator is to wait for it
    mean = sum(map(float, losses)) / len(losses) if losses else float("nan")
    return Adapted(at.body, at.head, mean)


def adapt_on_support(
    body: Body,
    theta: Tensors,
    support: Examples,
    settings: AdaptSettings,
    *,
    adam: AdamSteps | None = None,
) -> Adapted:
    """Make a head from the support set, then fine-tune body and head on it.

    Mini-batches come in an order that is always the same: equal supports give equal classifiers.

    Raises:
        DataError: A class has no image.
    """
    support.require_every_class()
    with torch.no_grad():
        features = body.apply_with(theta, support.images)
        head = first_head(settings.head, features, support.labels, support.n_way)
    if settings.batch_size is None:
        batches: Iterable[Examples] = [support] * settings.steps
    else:
        rng = np.random.default_rng(0)
        batches = minibatches(support, settings.batch_size, settings.steps, rng)
    return inner_loop(body, theta, head, batches, lr=settings.lr, adam=adam)
