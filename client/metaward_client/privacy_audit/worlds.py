"""Neighbouring data sets: the same hospital without one patient, and with that patient at worst.

The one patient has the highest number, so that all others keep theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metaward.tasks import Task

MANY_IMAGES = 40
HUGE = 1.0e6
LABELS = ("finding a", "finding b", "finding c")


@dataclass(frozen=True)
class Worlds:
    """Data sets that differ in one patient.

    Attributes:
        absent: Without the patient.
        present: What the patient is like -> data set with the patient.
    """

    absent: Task
    present: Mapping[str, Task]


def synthetic_task(
    rng: np.random.Generator,
    *,
    n_patients: int = 16,
    images_per_patient: int = 4,
    size: int = 16,
    channels: int = 1,
) -> Task:
    """Return a drawn hospital: a bright square per label at its place, on noise.

    A patient has one label; pixels are in [0, 1].
    """
    patients = np.repeat(np.arange(n_patients), images_per_patient)
    labels = patients % len(LABELS)
    images = rng.uniform(0.0, 0.6, (len(labels), channels, size, size)).astype(np.float32)
    side = size // 4
    for image, label in zip(images, labels, strict=True):
        start = side * int(label)
        image[:, start : start + side, start : start + side] += 0.4
    tokens = tuple(b"drawn %d" % number for number in range(n_patients))
    return Task("audit", images, labels.astype(np.int64), patients, LABELS, tokens)


def small_part(task: Task, rng: np.random.Generator, n_patients: int) -> Task:
    """Return the images of at most ``n_patients`` random patients, numbered anew."""
    numbers = np.unique(task.patients)
    kept = np.sort(rng.permutation(numbers)[:n_patients])
    rows = np.flatnonzero(np.isin(task.patients, kept))
    tokens = tuple(b"part %d" % number for number in range(len(kept)))
    return Task(
        "audit",
        np.asarray(task.images[rows], dtype=np.float32),
        task.labels[rows],
        np.searchsorted(kept, task.patients[rows]).astype(np.int64),
        task.label_names,
        tokens,
    )


def neighbouring_worlds(task: Task, rng: np.random.Generator) -> Worlds:
    """Return the task without its last patient, and with that patient in each adversarial form."""
    last = task.patients.max()
    rows = np.flatnonzero(task.patients == last)
    absent = _without(task, last)
    images = np.asarray(task.images[rows], dtype=np.float32)
    labels = task.labels[rows]
    wrong = (labels + 1) % len(task.label_names)
    many = np.resize(np.arange(len(rows)), MANY_IMAGES)
    noisy = images[many] + rng.normal(0, 0.1, images[many].shape).astype(np.float32)
    broken = images.copy()
    broken[0] = np.nan
    infinite = np.full_like(images, np.inf)
    points = np.zeros((MANY_IMAGES, *images.shape[1:]), dtype=np.float32)
    points[..., 0, 0] = 1.0  # one bright pixel: as far from all other images as can be
    forms: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]] = {
        "as found": (images, labels),
        "huge pixels": (images * np.float32(HUGE), wrong),
        "wrong labels": (images, wrong),
        "contradictory labels": (
            np.concatenate([images, images]),
            np.concatenate([labels, wrong]),
        ),
        "many images": (noisy, np.resize(wrong, MANY_IMAGES)),
        "many images of one point": (points, np.resize(wrong, MANY_IMAGES)),
        "one image not a number": (broken, labels),
        "infinite pixels": (infinite, labels),
    }
    present = {name: _with(absent, last, *form, task=task) for name, form in forms.items()}
    return Worlds(absent, present)


def _without(task: Task, patient: int) -> Task:
    rows = np.flatnonzero(task.patients != patient)
    return replace(
        task,
        images=np.asarray(task.images[rows], dtype=np.float32),
        labels=task.labels[rows],
        patients=task.patients[rows],
        patient_tokens=task.patient_tokens[:-1],
    )


def _with(
    absent: Task,
    patient: int,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    task: Task,
) -> Task:
    return replace(
        absent,
        images=np.concatenate([absent.images, images]),
        labels=np.concatenate([absent.labels, labels]),
        patients=np.concatenate([absent.patients, np.full(len(labels), patient)]),
        patient_tokens=task.patient_tokens,
    )
