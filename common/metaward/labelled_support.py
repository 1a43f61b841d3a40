"""The labelled images that a site adapts on: up to so many of each label, of many patients."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from metaward.episodes import Examples, label_counts, take_in_turns
from metaward.errors import DataError
from metaward.tasks import Task


def with_images_of_each_label(task: Task) -> Task:
    """Return the task without the labels that no image has.

    Raises:
        DataError: Fewer than two labels are left.
    """
    present, labels = np.unique(task.labels, return_inverse=True)
    if len(present) < 2:
        raise DataError(
            f"images of {len(present)} label" + ("s" if len(present) != 1 else "")
            + (f" ({label_counts(task, present)})" if len(present) else ""),
            expected="images of two labels or more, to tell apart",
            where=f"site {task.site}",
            next_step="Label images of another finding, or of none, too.",
        )  # fmt: skip
    names = tuple(task.label_names[label] for label in present)
    return replace(task, labels=labels.reshape(-1), label_names=names)


def labelled_support(
    task: Task, *, most: int, rng: np.random.Generator, patients: Collection[int] | None = None
) -> Examples:
    """Draw up to ``most`` images of each label: one of each patient, then a second, and so on.

    Args:
        task: Every label has an image of a patient whose images may be drawn.
        most: Images of a label, from 1.
        rng: Draws patients and images.
        patients: Whose images may be drawn; left out: everybody's.
    """
    rows = []
    for images_of in task.images_of.values():
        allowed = [p for p in images_of if patients is None or p in patients]
        in_random_order = [int(patient) for patient in rng.permutation(allowed)]
        rows.append(take_in_turns(images_of, in_random_order, most, rng))
    drawn = np.concatenate(rows)
    return Examples(task.take(drawn), task.labels_at(drawn), len(task.label_names))
