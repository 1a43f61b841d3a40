"""All patients of a site, and which of their images go into one noised sum.

Whose images are chosen, and how each is seen, is drawn from a stream of that patient alone: one
stream for all would let one patient more change the images of everybody who comes later.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.augmentation import drawn_views, seen_as
from metaward.episodes import Examples
from metaward.learner_settings import Augment
from metaward.tasks import Task

IMAGES_AT_ONCE, PIXELS_AT_ONCE = 192, 192 * 32 * 32
"""What is worked on at the same time: 192 images of 32x32, 48 of 64x64, 3 of 256x256.

A third as many cost a fifth more on small images; more gain nothing, and the memory that large
images need stays bounded. Measured on CPU, where freed memory is kept
(`worker_process.KEEP_MEMORY`); where each layer takes it from the system anew, fewer would be as
fast.
"""
Rows = NDArray[np.int64]
Chosen = tuple[Rows, Rows]
"""One patient's rows for one answer, and how each is seen."""


@dataclass(frozen=True)
class Cohort:
    """All patients of a site, as DP-SGD sees them.

    Attributes:
        task: The site's images.
        rows: Rows of the images with a label of the public list, one patient after the other.
        starts: (n_patients + 1,), where each patient's part of ``rows`` begins; may be empty.
        label_of: Index into the public list for each image; -1 where it is not on the list.
        n_labels: Length of the public list.
    """

    task: Task
    rows: Rows
    starts: Rows
    label_of: Rows
    n_labels: int

    @classmethod
    def of(cls, task: Task, labels: Sequence[str]) -> "Cohort":
        """Group a task by patient, with the labels of a public list."""
        number = {name: index for index, name in enumerate(labels)}
        translate = np.array([number.get(name, -1) for name in task.label_names] or [-1])
        label_of = translate[task.labels]
        everyone, patient_of = np.unique(task.patients, return_inverse=True)
        order = np.argsort(patient_of, kind="stable")
        rows = order[label_of[order] >= 0]
        starts = np.searchsorted(patient_of[rows], np.arange(len(everyone) + 1))
        return cls(task, rows, starts, label_of, len(labels))

    @property
    def n_patients(self) -> int:
        """Number of patients, those without a usable image included."""
        return len(self.starts) - 1

    def images_of(self, patient: int) -> Rows:
        """Return the rows of one patient's images with a label of the public list."""
        return self.rows[self.starts[patient] : self.starts[patient + 1]]


@dataclass(frozen=True)
class Sample:
    """The patients of one noised sum.

    Attributes:
        drawn: Patients in the sample.
        seeds: (n_patients,) in (0, 1); starts each patient's own stream.
        images_per_patient: m, at most.
        augment: How an image is changed.
    """

    drawn: Rows
    seeds: NDArray[np.float64]
    images_per_patient: int
    augment: Augment

    def batches(
        self, cohort: Cohort, classes: Sequence[int]
    ) -> Iterator[tuple[Examples, list[int]]]:
        """Yield images of one patient after the other, and how many are whose.

        Args:
            cohort: Of which the sample is.
            classes: Indices into the public list; examples are labelled by their place in it. A
                patient without an image of them is left out.
        """
        row_of = np.full(cohort.n_labels + 1, -1)  # the last one stands for labels not listed
        row_of[list(classes)] = np.arange(len(classes))
        row_of_image = row_of[cohort.label_of]
        streams = _PatientStreams()
        everybody = (
            self._chosen(cohort, int(patient), row_of_image, streams.of(self.seeds[patient]))
            for patient in self.drawn
        )
        chosen = [own for own in everybody if len(own[0])]
        for batch in _batches(chosen, pixels_of_image=int(np.prod(cohort.task.images.shape[2:]))):
            rows = np.concatenate([own for own, _ in batch])
            views = np.concatenate([own for _, own in batch])
            images = seen_as(cohort.task.take(rows), views)
            labels = torch.from_numpy(row_of_image[rows])
            yield Examples(images, labels, len(classes)), [len(own) for own, _ in batch]

    def _chosen(
        self, cohort: Cohort, patient: int, row_of_image: Rows, rng: np.random.Generator
    ) -> Chosen:
        """Return at most m images of one patient, and how each is seen."""
        own = cohort.images_of(patient)
        rows = rng.permutation(own[row_of_image[own] >= 0])[: self.images_per_patient]
        return rows, drawn_views(self.augment, len(rows), rng)


class _PatientStreams:
    """A stream for each patient, from one generator that is started anew for each.

    Philox (Salmon et al. 2011) is counter-based: key and counter are all there is to its state, so
    that a stream costs a tenth of what it takes to make a generator.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._start = self._bits.state
        self._rng = np.random.Generator(self._bits)

    def of(self, seed: float) -> np.random.Generator:
        """Return the stream of a seed in (0, 1); it is over when the next one is asked for."""
        self._start["state"]["key"][0] = int(seed * 2**53)
        self._bits.state = self._start
        return self._rng


def _batches(chosen: Sequence[Chosen], pixels_of_image: int) -> Iterator[Sequence[Chosen]]:
    """Yield patients in their order, as many at once as there is room for; one at least."""
    room = min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // pixels_of_image)
    first, images = 0, 0
    for number, (rows, _) in enumerate(chosen):
        if number > first and images + len(rows) > room:
            yield chosen[first:number]
            first, images = number, 0
        images += len(rows)
    if chosen:
        yield chosen[first:]
