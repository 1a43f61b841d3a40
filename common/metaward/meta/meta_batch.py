"""A meta-batch: the mean delta over tasks, taken one after the other or side by side.

    delta = 1/T sum over t of delta(theta; task t),   t = 1..T

Side by side means that a step of all tasks is one forward and one backward pass. Images and labels
get a first axis of T, and so does every leaf of theta: T equal ones at first, which an inner loop
leads apart. The sum of the T losses has as its gradient the gradients of all, for no task's loss
knows another task's parameters; so what a learner does with one task it does with many, by the same
lines. In exact arithmetic both ways give the same; in float32 they round differently.

How many tasks should stand side by side depends on the device and on how much work a step is. On
a CPU a convolution of few images and channels leaves most of the time to the overhead of each call,
which tasks side by side pay once; with more than that, the plain convolutions of a task alone are
the faster ones, and :meth:`metaward.models.body.Body.apply_each` takes these. On an accelerator one
task cannot fill the device. docs/algorithms.md has the figures.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.meta.learner import LocalResult
from metaward.models.body import Body, gains_from_groups

IMAGES_AT_ONCE = 100
"""Images of the smallest pass, all tasks together, up to which they stay in a CPU's cache."""
MOST_IMAGES = 640
"""Images that all tasks together hold in memory on a CPU: of the largest pass, and of the others
that are held with it."""
ON_ACCELERATOR = 32
"""Tasks side by side on an accelerator, which bounds the memory there."""

TaskExamples: TypeAlias = Sequence[Examples]
"""What is drawn of a task: its support and its query, or its support and a batch for each step."""
DeltaOf: TypeAlias = Callable[[Tensors, TaskExamples], LocalResult]
"""What a learner makes of a task; or of several, which have a first axis in theta and examples, and
then in the delta too, and whose loss is the sum of theirs."""


def mean_over_tasks(
    body: Body,
    theta: Tensors,
    tasks: Iterable[TaskExamples],
    delta_of: DeltaOf,
    *,
    apart: bool = True,
    passes_held: int = 0,
    at_once: int | None = None,
) -> LocalResult:
    """Return the mean delta and loss over tasks; as few are held as stand side by side.

    Args:
        body: The network.
        theta: The meta-parameters, which all tasks start from.
        tasks: At least one. Only tasks of the same sizes stand side by side.
        delta_of: What a learner makes of one task, or of several.
        apart: Whether an inner loop leads the tasks' parameters apart. Without one all share theta:
            it gets no axis of tasks, and the delta of several is the sum of theirs.
        passes_held: Of the smaller examples, how many passes are in memory beside the largest one.
        at_once: Tasks that stand side by side; left out, what is fastest.
    """
    total: Tensors = {}
    n_tasks, loss = 0, 0.0

    def most(task: TaskExamples) -> int:
        return at_once or fastest_at_once(body, theta, task, apart=apart, passes_held=passes_held)

    for part in _parts(tasks, most):
        if len(part) == 1:
            found = delta_of(theta, part[0])
            delta = found.delta
        else:
            together = [stacked(own) for own in zip(*part, strict=True)]
            found = delta_of(spread(theta, len(part)) if apart else theta, together)
            delta = found.delta
            if apart:
                delta = {name: leaf.sum(dim=0) for name, leaf in delta.items()}
        total = {name: total[name] + leaf for name, leaf in delta.items()} if total else delta
        n_tasks, loss = n_tasks + len(part), loss + found.loss
    return LocalResult({name: leaf / n_tasks for name, leaf in total.items()}, loss / n_tasks)


def mean_over_episodes(
    body: Body,
    theta: Tensors,
    episodes: Iterable[Episode],
    delta_of: Callable[[Tensors, Episode], LocalResult],
    *,
    apart: bool = True,
    passes_held: int = 0,
    at_once: int | None = None,
) -> LocalResult:
    """Return the mean delta and loss over episodes; see :func:`mean_over_tasks`."""

    def of(leaves: Tensors, parts: TaskExamples) -> LocalResult:
        support, query = parts
        return delta_of(leaves, Episode(support, query))

    tasks = ((episode.support, episode.query) for episode in episodes)
    return mean_over_tasks(
        body, theta, tasks, of, apart=apart, passes_held=passes_held, at_once=at_once
    )


def spread(theta: Tensors, n_tasks: int) -> Tensors:
    """Return theta with a first axis of tasks, all of them equal; the memory is shared."""
    return {name: leaf.expand(n_tasks, *leaf.shape) for name, leaf in theta.items()}


def stacked(examples: Sequence[Examples]) -> Examples:
    """Return examples of as many tasks, all of one size, with a first axis of tasks."""
    images = torch.stack([own.images for own in examples])
    labels = torch.stack([own.labels for own in examples])
    return Examples(images, labels, examples[0].n_way)


def fastest_at_once(
    body: Body, theta: Tensors, task: TaskExamples, *, apart: bool = True, passes_held: int = 0
) -> int:
    """Return how many tasks of this size should stand side by side on theta's device.

    See :func:`mean_over_tasks`.
    """
    if next(iter(theta.values())).device.type != "cpu":
        return ON_ACCELERATOR
    sizes = [len(examples.labels) for examples in task]
    if not apart or not gains_from_groups(body, min(sizes)):
        return 1
    held = max(sizes) + passes_held * min(sizes)
    return max(1, min(IMAGES_AT_ONCE // min(sizes), MOST_IMAGES // held))


def _parts(
    tasks: Iterable[TaskExamples], most: Callable[[TaskExamples], int]
) -> Iterator[list[TaskExamples]]:
    """Give the tasks that stand side by side."""
    part: list[TaskExamples] = []
    for task in tasks:
        if part and _sizes(task) != _sizes(part[0]):
            yield part
            part = []
        part.append(task)
        if len(part) == most(task):
            yield part
            part = []
    if part:
        yield part


def _sizes(task: TaskExamples) -> list[tuple[int, int]]:
    return [(len(examples.labels), examples.n_way) for examples in task]
