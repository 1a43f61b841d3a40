"""The inner loops of several tasks, one after the other or side by side.

    phi^t_0 = theta,   phi^t_{k+1} = phi^t_k - inner_lr * grad L^t(phi^t_k; batch^t_k),   t = 1..T

Side by side means that a step of all tasks is one forward and one backward pass: parameters and
images have a first axis of T, and the sum of the T losses has as its gradient the gradients of
all, for no task's loss knows another task's parameters. In exact arithmetic both ways give the
same; in float32 they round differently.

How many tasks should stand side by side depends on the device and on how much work a step is. On
a CPU a convolution of few images leaves most of the time to the overhead of each call, which tasks
side by side pay once; with more images than :data:`IMAGES_AT_ONCE` their working set leaves the
cache (docs/algorithms.md has the figures). On an accelerator one task cannot fill the device.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.head import Head
from metaward.meta.inner_loop import Adapted, inner_loop
from metaward.models.body import Body

IMAGES_AT_ONCE = 100
"""Images of one step, of all tasks side by side, up to which they gain from it on a CPU."""


def inner_loops(
    body: Body,
    theta: Tensors,
    heads: Sequence[Head],
    batches: Sequence[Sequence[Examples]],
    *,
    lr: float,
    at_once: int | None = None,
) -> list[Adapted]:
    """Take the inner steps of each task from the same theta; see :mod:`metaward.meta.inner_loop`.

    Args:
        body: The network.
        theta: Where every body starts.
        heads: Where the head of each task starts.
        batches: Of each task, one batch per step.
        lr: Inner learning rate of body and head.
        at_once: Tasks that stand side by side; left out, what is fastest. Tasks whose batches have
            not all the same size and number of classes are always taken one after the other.
    """
    if not _alike(batches):
        at_once = 1
    at_once = at_once or fastest_at_once(theta, batches)
    found: list[Adapted] = []
    for first in range(0, len(heads), at_once):
        part = slice(first, first + at_once)
        found += _side_by_side(body, theta, heads[part], batches[part], lr)
    return found


def fastest_at_once(theta: Tensors, batches: Sequence[Sequence[Examples]]) -> int:
    """Return how many tasks of this size should stand side by side on theta's device."""
    if next(iter(theta.values())).device.type != "cpu":
        return len(batches)
    most = max((len(batch.labels) for own in batches for batch in own), default=1)
    return max(1, IMAGES_AT_ONCE // most)


def _alike(batches: Sequence[Sequence[Examples]]) -> bool:
    return len({tuple((len(batch.labels), batch.n_way) for batch in own) for own in batches}) <= 1


def _side_by_side(
    body: Body,
    theta: Tensors,
    heads: Sequence[Head],
    batches: Sequence[Sequence[Examples]],
    lr: float,
) -> list[Adapted]:
    n_tasks = len(heads)
    if n_tasks == 1:
        return [inner_loop(body, theta, heads[0], batches[0], lr=lr)]
    names = list(theta)
    at = [leaf.detach().expand(n_tasks, *leaf.shape).clone() for leaf in theta.values()]
    at += [torch.stack([head.weight.detach() for head in heads])]
    at += [torch.stack([head.bias.detach() for head in heads])]
    losses = []
    for step in zip(*batches, strict=True):
        at = [leaf.requires_grad_() for leaf in at]
        each = losses_of_tasks(body, dict(zip(names, at, strict=False)), at[-2], at[-1], step)
        gradients = torch.autograd.grad(each.sum(), at)
        at = [leaf.detach() - lr * grad for leaf, grad in zip(at, gradients, strict=True)]
        losses.append(each.detach())
    mean_losses = torch.stack(losses).mean(dim=0).tolist() if losses else [float("nan")] * n_tasks
    return [
        Adapted(
            {name: leaf[task].requires_grad_() for name, leaf in zip(names, at, strict=False)},
            Head(at[-2][task].requires_grad_(), at[-1][task].requires_grad_()),
            mean_losses[task],
        )
        for task in range(n_tasks)
    ]


def losses_of_tasks(
    body: Body,
    phi: Tensors,
    weight: torch.Tensor,
    bias: torch.Tensor,
    examples: Sequence[Examples],
) -> torch.Tensor:
    """Return the mean cross-entropy of each task, (tasks,).

    Args:
        body: The network.
        phi: The bodies; every leaf has a first axis of tasks.
        weight: (tasks, n_way, n_features), of the heads.
        bias: (tasks, n_way).
        examples: Of each task, equally many.
    """
    images = torch.stack([one.images for one in examples])
    labels = torch.stack([one.labels for one in examples])
    features = body.apply_each(phi, images)
    logits = torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return each.view(labels.shape).mean(dim=1)
