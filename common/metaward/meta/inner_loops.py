"""The inner loops of several tasks, one after the other or side by side.

    phi^t_0 = theta,   phi^t_{k+1} = phi^t_k - inner_lr * grad L^t(phi^t_k; batch^t_k),   t = 1..T

Side by side means that a step of all tasks is one forward and one backward pass: parameters and
images have a first axis of T, and the sum of the T losses has as its gradient the gradients of
all, for no task's loss knows another task's parameters. In exact arithmetic both ways give the
same; in float32 they round differently.

How many tasks should stand side by side depends on the device and on how much work a step is. On
a CPU a convolution of few images and channels leaves most of the time to the overhead of each call,
which tasks side by side pay once; with more than that, the plain convolutions of a task alone are
the faster ones (docs/algorithms.md has the figures). On an accelerator one task cannot fill the
device.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.head import Head
from metaward.meta.inner_loop import Adapted, inner_loop, loss_and_gradient
from metaward.meta.parameters import Parameters
from metaward.models.body import Body

SMALL_STEP = 400
"""Images times channels of one task's step up to which tasks gain on a CPU by standing together."""
IMAGES_AT_ONCE = 100
"""Images of one step, of all tasks side by side, up to which they stay in a CPU's cache."""


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
    found: list[Adapted] = []
    for part in _parts(body, theta, batches, at_once):
        found += _side_by_side(body, theta, heads[part], batches[part], lr)
    return found


def losses_and_gradients(
    body: Body,
    at: Sequence[Parameters],
    examples: Sequence[Examples],
    *,
    at_once: int | None = None,
) -> list[tuple[torch.Tensor, Parameters]]:
    """Return each task's loss and its gradient at that task's own parameters.

    Args:
        body: The network.
        at: Of each task, where.
        examples: Of each task, what the loss is the mean over.
        at_once: As for :func:`inner_loops`.
    """
    found: list[tuple[torch.Tensor, Parameters]] = []
    if not at:
        return found
    for part in _parts(body, at[0].body, [[one] for one in examples], at_once):
        if len(at[part]) == 1:
            found.append(loss_and_gradient(body, at[part][0].detached(), examples[part][0]))
            continue
        losses, gradient = _step(body, _stacked(at[part]).detached(), examples[part])
        found += zip(losses, _apart(gradient, len(losses)), strict=True)
    return found


def fastest_at_once(body: Body, theta: Tensors, batches: Sequence[Sequence[Examples]]) -> int:
    """Return how many tasks of this size should stand side by side on theta's device."""
    if next(iter(theta.values())).device.type != "cpu":
        return max(1, len(batches))
    n_images = max((len(batch.labels) for own in batches for batch in own), default=1)
    if not body.groups_tasks or n_images * body.map_channels > SMALL_STEP:
        return 1
    return IMAGES_AT_ONCE // n_images


def _parts(
    body: Body, theta: Tensors, batches: Sequence[Sequence[Examples]], at_once: int | None
) -> Iterator[slice]:
    """Give the tasks that stand side by side."""
    sizes = {tuple((len(batch.labels), batch.n_way) for batch in own) for own in batches}
    n = 1 if len(sizes) > 1 else at_once or fastest_at_once(body, theta, batches)
    for first in range(0, len(batches), n):
        yield slice(first, first + n)


def _side_by_side(
    body: Body,
    theta: Tensors,
    heads: Sequence[Head],
    batches: Sequence[Sequence[Examples]],
    lr: float,
) -> list[Adapted]:
    if len(heads) == 1:
        return [inner_loop(body, theta, heads[0], batches[0], lr=lr)]
    at = _stacked([Parameters(theta, head) for head in heads]).detached()
    losses = []
    for step in zip(*batches, strict=True):
        each, gradient = _step(body, at, step)
        at = at.stepped(gradient, lr).detached()
        losses.append(each)
    means = torch.stack(losses).mean(dim=0).tolist() if losses else [float("nan")] * len(heads)
    ends = [own.detached() for own in _apart(at, len(heads))]
    return [Adapted(end.body, end.head, mean) for end, mean in zip(ends, means, strict=True)]


def _step(
    body: Body, at: Parameters, examples: Sequence[Examples]
) -> tuple[torch.Tensor, Parameters]:
    """Return the tasks' losses, (tasks,), and their gradients, stacked as ``at`` is."""
    images = torch.stack([one.images for one in examples])
    labels = torch.stack([one.labels for one in examples])
    features = body.apply_each(at.body, images)
    logits = torch.baddbmm(at.head.bias[:, None], features, at.head.weight.transpose(1, 2))
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    losses = each.view(labels.shape).mean(dim=1)
    return losses.detach(), at.holding(torch.autograd.grad(losses.sum(), at.leaves()))


def _stacked(at: Sequence[Parameters]) -> Parameters:
    """Return the tasks' parameters with a first axis of tasks."""
    return at[0].holding(
        [torch.stack(leaves) for leaves in zip(*(own.leaves() for own in at), strict=True)]
    )


def _apart(stacked: Parameters, n_tasks: int) -> list[Parameters]:
    """Return each task's own."""
    return [stacked.holding([leaf[task] for leaf in stacked.leaves()]) for task in range(n_tasks)]
