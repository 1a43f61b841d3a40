"""The inner loop: plain SGD on body and head, from theta, on one task's images.

    phi_0 = theta,   phi_{k+1} = phi_k - inner_lr * grad L(phi_k; batch_k)

L is the mean cross-entropy. Nothing is changed in place: ``theta`` is left as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.learner_settings import AdaptSettings
from metaward.meta.head import Head, first_head
from metaward.meta.minibatches import minibatches
from metaward.models.body import Body


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


def episode_loss(body: Body, phi: Tensors, head: Head, examples: Examples) -> torch.Tensor:
    """Return the mean cross-entropy of the examples, a scalar."""
    return F.cross_entropy(head(body.apply_with(phi, examples.images)), examples.labels)


def inner_loop(
    body: Body, theta: Tensors, head: Head, batches: Iterable[Examples], *, lr: float
) -> Adapted:
    """Take one SGD step on body and head for each batch.

    Args:
        body: The network; its own parameters are not used.
        theta: Where the body starts.
        head: Where the head starts.
        batches: One per step.
        lr: Inner learning rate of body and head.
    """
    phi = {name: leaf.detach().requires_grad_() for name, leaf in theta.items()}
    head = head.detached()
    losses = []
    for batch in batches:
        loss = episode_loss(body, phi, head, batch)
        gradients = torch.autograd.grad(loss, [*phi.values(), head.weight, head.bias])
        stepped = [
            (leaf.detach() - lr * gradient).requires_grad_()
            for leaf, gradient in zip(
                [*phi.values(), head.weight, head.bias], gradients, strict=True
            )
        ]
        phi = dict(zip(phi, stepped, strict=False))
        head = Head(*stepped[-2:])
        losses.append(float(loss.detach()))
    return Adapted(phi, head, sum(losses) / len(losses) if losses else float("nan"))


def adapt_on_support(
    body: Body, theta: Tensors, support: Examples, settings: AdaptSettings
) -> Adapted:
    """Make a head from the support set, then fine-tune body and head on it.

    Mini-batches come in an order that is always the same: equal supports give equal classifiers.
    """
    with torch.no_grad():
        features = body.apply_with(theta, support.images)
        head = first_head(settings.head, features, support.labels, support.n_way)
    if settings.batch_size is None:
        batches: Iterable[Examples] = [support] * settings.steps
    else:
        rng = np.random.default_rng(0)
        batches = minibatches(support, settings.batch_size, settings.steps, rng)
    return inner_loop(body, theta, head, batches, lr=settings.lr)
