"""Draw from Omniglot: tasks to train on, episodes to test on.

A class is a character at one of four quarter turns (Vinyals et al. 2016, section 4.1.1), so that
1,200 characters give 4,800 classes. A drawing is a patient: each of a character's is by another
person. For training, the drawn classes with all their drawings become a `Task` of the library, and
a learner does with it what it does at a hospital. A task of all classes would have 96,000 images,
and a draw from it would look at every class. For testing, an episode depends on (seed, ways,
shots, its number) alone, so all learners answer the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.episodes import Episode, Examples
from metaward.tasks import CPU, Task, standardise
from omniglot.characters import Characters
from omniglot.training import TaskSource

QUARTER_TURNS = 4


@dataclass(frozen=True)
class Setting:
    """A column of the papers' tables."""

    n_way: int
    n_shot: int

    def __str__(self) -> str:
        return f"{self.n_way}-way {self.n_shot}-shot"


@dataclass(frozen=True)
class Classes:
    """Characters at all quarter turns, on one side of a split.

    Attributes:
        images: (n_characters, n_drawers, 28, 28) uint8.
    """

    images: NDArray[np.uint8]

    def __len__(self) -> int:
        return QUARTER_TURNS * len(self.images)

    def drawings(self, number: int) -> NDArray[np.float32]:
        """Return the drawings of class ``number``, (n_drawers, 28, 28) in [0, 1]."""
        character, turns = divmod(number, QUARTER_TURNS)
        drawings: NDArray[np.uint8] = self.images[character]
        return np.rot90(drawings, turns, axes=(1, 2)).astype(np.float32) / np.float32(255)


def both_sides(characters: Characters, cut: int) -> tuple[Classes, Classes]:
    """Return the classes to train on and those to test on; no character is on both sides."""
    return Classes(characters.images[:cut]), Classes(characters.images[cut:])


def drawn_tasks(classes: Classes, n_classes: int) -> TaskSource:
    """Return a source of tasks of ``n_classes`` classes each."""

    def tasks(rng: np.random.Generator) -> Iterator[Task]:
        while True:
            yield drawn_task(classes, n_classes, rng)

    return tasks


def whole_task(classes: Classes, device: torch.device) -> TaskSource:
    """Return a source of one task: all classes, on an accelerator, which is sent them once."""
    task = task_of(classes, range(len(classes)), device)

    def tasks(rng: np.random.Generator) -> Iterator[Task]:  # noqa: ARG001 (nothing is drawn)
        while True:
            yield task

    return tasks


def drawn_task(classes: Classes, n_classes: int, rng: np.random.Generator) -> Task:
    """Return ``n_classes`` different classes, with all their drawings, as a site's task."""
    return task_of(classes, rng.choice(len(classes), n_classes, replace=False).tolist())


def task_of(classes: Classes, numbers: Sequence[int], device: torch.device = CPU) -> Task:
    """Return the classes of these numbers, with all their drawings, as a site's task."""
    images = np.concatenate([classes.drawings(number) for number in numbers])
    return Task(
        site="omniglot",
        images=images[:, None],
        labels=np.repeat(np.arange(len(numbers)), len(images) // len(numbers)),
        patients=np.arange(len(images)),
        label_names=tuple(map(str, numbers)),
        device=device,
    )


def drawn_episode(
    classes: Classes,
    setting: Setting,
    n_query: int,
    *,
    seed: int,
    number: int,
    device: torch.device = CPU,
) -> Episode:
    """Return episode ``number``: support and query of different drawings, class-major."""
    n_way, n_shot = setting.n_way, setting.n_shot
    rng = np.random.default_rng([seed, n_way, n_shot, number])
    support, query = [], []
    for drawn in rng.choice(len(classes), n_way, replace=False).tolist():
        drawings = classes.drawings(drawn)
        order = rng.permutation(len(drawings))
        support.append(drawings[order[:n_shot]])
        query.append(drawings[order[n_shot : n_shot + n_query]])
    return episode_of(support, query, device)


def episode_of(
    support: list[NDArray[np.float32]],
    query: list[NDArray[np.float32]],
    device: torch.device = CPU,
) -> Episode:
    """Return an episode of each class's drawings, in both as many of each; nobody drew twice."""
    return Episode(_examples(support, device), _examples(query, device))


def _examples(drawings: list[NDArray[np.float32]], device: torch.device) -> Examples:
    """Return (n_way, n) drawings as examples, class-major."""
    images = torch.from_numpy(np.concatenate(drawings)[:, None])
    labels = torch.arange(len(drawings)).repeat_interleave(len(drawings[0]))
    return Examples(standardise(images).to(device), labels.to(device), len(drawings))
