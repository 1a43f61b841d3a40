"""Draw episodes: support and query of one task, never sharing a patient.

Support and query are disjoint by patient over the whole episode, also across classes: a patient
whose images carry two labels is on one side only.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.errors import ConfigError, DataError
from metaward.patient_split import can_be_split, two_sides
from metaward.tasks import Task

DRAWS_BEFORE_GIVING_UP = 20
"""Draws after which a task is declared too small; one is enough where every patient has one
label, however many images each has."""


@dataclass(frozen=True)
class Examples:
    """Labelled images of one task; or of several, as many of each, with a first axis of tasks.

    Attributes:
        images: (n, channels, size, size) float32, standardised.
        labels: (n,) int64 in 0..n_way-1.
        n_way: Number of classes.
    """

    images: torch.Tensor
    labels: torch.Tensor
    n_way: int

    @property
    def n_tasks(self) -> int | None:
        """Number of tasks; None for one without an axis of tasks."""
        return len(self.labels) if self.labels.ndim == 2 else None

    def require_every_class(self) -> None:
        """Check that a support set of one task has an image of each class.

        Raises:
            DataError: A class has none: nothing is known of it.
        """
        missing = sorted(set(range(self.n_way)) - set(self.labels.tolist()))
        if missing:
            raise DataError(
                f"a support set without an image of {len(missing)} of its {self.n_way} classes "
                f"(label {missing[0]})",
                expected="an image of each class",
                where="adapting to a support set",
                next_step="Label an image of each, or number the classes that have one from 0.",
            )


@dataclass(frozen=True)
class EpisodeIndices:
    """Which images of a task make an episode, class-major.

    Attributes:
        classes: (n_way,) labels of the task, in the order of the episode's classes.
        support: (n_way * n_shot,) indices into the task's images.
        query: (n_way * n_query,) likewise; no patient of ``support`` occurs here.
    """

    classes: NDArray[np.int64]
    support: NDArray[np.int64]
    query: NDArray[np.int64]


@dataclass(frozen=True)
class Episode:
    """Support and query of one task, disjoint by patient."""

    support: Examples
    query: Examples


def sample_episode(
    task: Task, *, n_way: int, n_shot: int, n_query: int, rng: np.random.Generator
) -> Episode:
    """Draw ``n_way`` classes, then ``n_shot`` support and ``n_query`` query images of each.

    See :func:`sample_indices` for how images are drawn and what is raised.
    """
    drawn = sample_indices(task, n_way=n_way, n_shot=n_shot, n_query=n_query, rng=rng)
    return Episode(
        support=_examples(task, drawn.support, n_way, n_shot),
        query=_examples(task, drawn.query, n_way, n_query),
    )


def sample_support(task: Task, *, n_way: int, n_shot: int, rng: np.random.Generator) -> Examples:
    """Draw ``n_way`` classes and ``n_shot`` images of each, from as many patients as possible.

    Raises:
        DataError: Fewer than ``n_way`` labels have ``n_shot`` images.
    """
    images_of = task.images_of
    enough = _usable(task, n_shot, 0)
    if len(enough) < n_way:
        raise _too_few_labels(task, enough, n_way=n_way, n_shot=n_shot, n_query=0)
    chosen = rng.permutation(enough)[:n_way]
    rows = [
        take_in_turns(
            images_of[c], [int(p) for p in rng.permutation(list(images_of[c]))], n_shot, rng
        )
        for c in chosen.tolist()
    ]
    return _examples(task, np.concatenate(rows), n_way, n_shot)


def usable_labels(task: Task, *, n_shot: int, n_query: int) -> NDArray[np.int64]:
    """Return the labels with enough patients and images for one episode, in ascending order.

    A label needs at least two patients (one to adapt on, one to score) and enough images on both
    sides when its patients are split in the way that is best for it.
    """
    known = task.usable.get((n_shot, n_query))
    if known is None:
        known = np.asarray(
            [
                label
                for label, images_of in task.images_of.items()
                if can_be_split([len(rows) for rows in images_of.values()], n_shot, n_query)
            ],
            dtype=np.int64,
        )
        task.usable[n_shot, n_query] = known
    return known


def ways_within(task: Task, n_way: int, *, n_shot: int, n_query: int) -> int:
    """Return ``n_way``, or the number of usable labels where the site has fewer.

    With ``n_query`` 0 a label is usable when it has ``n_shot`` images, of any patients.

    Raises:
        DataError: Fewer than two labels are usable: there is nothing to tell apart.
    """
    labels = _usable(task, n_shot, n_query)
    if len(labels) < 2:
        raise _too_few_labels(task, labels, n_way=2, n_shot=n_shot, n_query=n_query)
    return min(n_way, len(labels))


def _usable(task: Task, n_shot: int, n_query: int) -> NDArray[np.int64]:
    if n_query:
        return usable_labels(task, n_shot=n_shot, n_query=n_query)
    enough = [label for label, rows in task.images_of.items() if _n_images(rows) >= n_shot]
    return np.asarray(enough, dtype=np.int64)


def sample_indices(
    task: Task, *, n_way: int, n_shot: int, n_query: int, rng: np.random.Generator
) -> EpisodeIndices:
    """Draw the images of one episode.

    Classes are drawn uniformly. Within a class, patients are drawn in random order and their
    images taken in turns (every patient gives one image before any gives a second), so a support
    set of ``n_shot`` images shows as many patients as it can.

    Raises:
        ConfigError: ``n_way``, ``n_shot`` or ``n_query`` is below 1.
        DataError: Fewer usable labels than ``n_way``, or no split of the patients gives enough
            images on both sides.
    """
    if min(n_way, n_shot, n_query) < 1:
        raise ConfigError(
            f"n_way {n_way}, n_shot {n_shot}, n_query {n_query}",
            expected="1 or more of each",
            where=f"an episode of site {task.site}",
            next_step="For a support without a query take sample_support.",
        )
    labels = usable_labels(task, n_shot=n_shot, n_query=n_query)
    if len(labels) < n_way:
        raise _too_few_labels(task, labels, n_way=n_way, n_shot=n_shot, n_query=n_query)
    for _ in range(DRAWS_BEFORE_GIVING_UP):
        classes = rng.permutation(labels)[:n_way]
        drawn = _draw_patients(task, classes, n_shot, n_query, rng)
        if drawn is not None:
            return EpisodeIndices(classes, np.concatenate(drawn[0]), np.concatenate(drawn[1]))
    raise DataError(
        f"{task.n_patients} patients, many of them with several labels",
        expected=f"patients that can be split into {n_shot} support and {n_query} query images "
        f"for each of {n_way} labels",
        where=f"site {task.site}",
        next_step="Lower n_shot, n_query or n_way, or give each patient one label.",
    )


def _draw_patients(
    task: Task, classes: NDArray[np.int64], n_shot: int, n_query: int, rng: np.random.Generator
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] | None:
    """Return support and query indices per class, or None where this draw does not work out."""
    support: list[NDArray[np.int64]] = []
    query: list[NDArray[np.int64]] = []
    support_patients: set[int] = set()
    query_patients: set[int] = set()
    for label in classes:
        images_of = task.images_of[int(label)]
        patients = [int(patient) for patient in rng.permutation(list(images_of))]
        bound_support = [p for p in patients if p in support_patients]
        bound_query = [p for p in patients if p in query_patients]
        free = [p for p in patients if p not in support_patients and p not in query_patients]
        counts = {patient: len(rows) for patient, rows in images_of.items()}
        sides = two_sides(counts, bound_support, free, bound_query, n_shot, n_query)
        if sides is None:
            return None
        support.append(take_in_turns(images_of, sides[0], n_shot, rng))
        query.append(take_in_turns(images_of, sides[1], n_query, rng))
        support_patients.update(int(patient) for patient in task.patients[support[-1]])
        query_patients.update(int(patient) for patient in task.patients[query[-1]])
    return support, query


def _n_images(images_of_patient: dict[int, NDArray[np.int64]]) -> int:
    return sum(len(rows) for rows in images_of_patient.values())


def take_in_turns(
    images_of: dict[int, NDArray[np.int64]], patients: list[int], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Take ``n`` images: one of each patient in turn, then a second of each, and so on."""
    rows_of = (images_of[patient] for patient in patients)
    # to shuffle one is to draw nothing, and takes most of the time where patients have one each
    shuffled = [rows if len(rows) == 1 else rng.permutation(rows) for rows in rows_of]
    depth = max(len(rows) for rows in shuffled)
    turns = [rows[turn] for turn in range(depth) for rows in shuffled if turn < len(rows)]
    return np.asarray(turns[:n], dtype=np.int64)


def _examples(task: Task, indices: NDArray[np.int64], n_way: int, per_class: int) -> Examples:
    labels = torch.arange(n_way, device=task.device).repeat_interleave(per_class)
    return Examples(images=task.take(indices), labels=labels, n_way=n_way)


MOST_LISTED = 12
"""Labels whose counts stand in a message; a data set may have thousands."""


def label_counts(task: Task, labels: NDArray[np.int64]) -> str:
    """Return what there is of some labels, for a message."""
    counts = [
        f"{task.label_names[label]}: {_n_images(task.images_of[label])} images of "
        f"{len(task.images_of[label])} patients"
        for label in labels[:MOST_LISTED].tolist()
    ]
    more = [f"and {len(labels) - MOST_LISTED} more"] if len(labels) > MOST_LISTED else []
    return ", ".join(counts + more)


def _too_few_labels(
    task: Task, usable: NDArray[np.int64], *, n_way: int, n_shot: int, n_query: int
) -> DataError:
    short = np.setdiff1d(np.arange(len(task.label_names)), usable)
    found = f"{len(usable)} of {len(task.label_names)} labels have enough patients for an episode"
    return DataError(
        found + (f" (too few: {label_counts(task, short)})" if len(short) else ""),
        expected=f"{n_way} labels, each with {n_shot} support and {n_query} query images of "
        "different patients",
        where=f"site {task.site}",
        next_step="Lower n_way, n_shot or n_query, or label more patients.",
    )
