"""Patient DP-SGD: what a learner is given instead of data.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1, with patients for examples:

    S = {p : U_p < q} over all patients
    g_p = mean over at most m of the patient's own images of grad loss(phi), over body and head
    answer = (sum_S g_p min(1, C / |g_p|) + N(0, (sigma C)^2 I)) / (q N0)

A patient adds one vector of norm at most C to each answer, whatever phi is; the divisor is public.
So each answer is one Poisson-subsampled Gaussian mechanism under adding or removing one patient,
and everything that a learner makes of the answers is post-processing (docs/threat-model.md).

That holds only if g_p is a function of phi, of patient p and of randomness of p's own: each
patient's images are chosen and changed with a stream of their own. The gradients are computed
together (:mod:`metaward_client.privacy.patient_gradients`), in a small part of the time of one
after the other; which patients share a batch then moves a gradient by its last bits, which the clip
norm's margin covers (:data:`~metaward_client.privacy.clip_norm.ROUNDING_MARGIN`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.arrays import Tensors
from metaward.augmentation import drawn_views, seen_as
from metaward.episodes import Examples
from metaward.meta.head import Head
from metaward.meta.noised import Parameters
from metaward.models.body import Body
from metaward.study import Augment
from metaward.tasks import Task
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums, Normals
from metaward_client.privacy.patient_gradients import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    patient_gradients,
    refuse_shared_statistics,
)
from metaward_client.privacy.poisson import poisson_sample

IMAGES_AT_ONCE, PIXELS_AT_ONCE = 64, 2**17
"""What is worked on at the same time: 64 images of 32x32, 32 of 64x64, 2 of 256x256.

Fewer cost a third more on small images. More are slower too, since each layer then takes its memory
from the system anew; and the memory that large images need stays bounded. Measured on CPU.
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


@dataclass
class PatientGradients:
    """The :class:`~metaward.meta.noised.NoisedGradient` of one site and round.

    Attributes:
        body: The network.
        cohort: All patients.
        sums: Adds the noise and counts the answers.
        images_per_patient: m.
        augment: How an image is changed; each patient's images by themselves.
        loss: Mean loss of the patients drawn last, for the site's own log; never leaves.
    """

    body: Body
    cohort: Cohort
    sums: NoisedSums
    images_per_patient: int
    augment: Augment
    loss: float = float("nan")

    def __post_init__(self) -> None:
        refuse_shared_statistics(self.body)

    def __call__(self, at: Parameters, classes: Sequence[int]) -> Parameters:
        """Return the noised mean gradient; see :class:`metaward.meta.noised.NoisedGradient`."""
        flat = {**at.body, HEAD_WEIGHT: at.head.weight, HEAD_BIAS: at.head.bias}
        shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}
        drawn = poisson_sample(self.cohort.n_patients, self.sums.terms.sample_rate, self.source)
        seeds = self.source.uniforms(self.cohort.n_patients)  # one for each, drawn or not
        total = clipped_sum(self, flat, drawn, seeds, classes)
        noised = self.sums.release(total, shapes)
        answer = {name: torch.from_numpy(leaf.astype(np.float32)) for name, leaf in noised.items()}
        head = Head(answer.pop(HEAD_WEIGHT), answer.pop(HEAD_BIAS))
        return Parameters(answer, head)

    @property
    def source(self) -> Normals:
        """Where the draw of patients and the noise come from."""
        return self.sums.source


def clipped_sum(
    site: PatientGradients,
    flat: Tensors,
    drawn: Rows,
    seeds: NDArray[np.float64],
    classes: Sequence[int],
) -> ClippedSum:
    """Return the sum of the drawn patients' clipped gradients; the sum over nobody is zero.

    Args:
        site: Cohort, body, and how images are changed.
        flat: Parameters of body and head.
        drawn: Patients in the sample.
        seeds: (n_patients,) in (0, 1); starts each patient's own stream.
        classes: Of the head's rows. A patient without an image of them adds nothing.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}
    total = ClippedSum.empty(shapes, site.sums.max_grad_norm)
    row_of = np.full(site.cohort.n_labels + 1, -1)  # the last one stands for labels not listed
    row_of[list(classes)] = np.arange(len(classes))
    row_of_image = row_of[site.cohort.label_of]
    chosen = [own for p in drawn if len((own := _chosen(site, int(p), seeds[p], row_of_image))[0])]
    losses: list[float] = []
    for batch in _batches(chosen, pixels_of_image=int(np.prod(site.cohort.task.images.shape[2:]))):
        rows = np.concatenate([own for own, _ in batch])
        views = np.concatenate([own for _, own in batch])
        images = seen_as(site.cohort.task.take(rows), views)
        examples = Examples(images, torch.from_numpy(row_of_image[rows]), len(classes))
        counts = [len(own) for own, _ in batch]
        gradients, loss = patient_gradients(site.body, flat, examples, counts)
        total.add({name: leaf.numpy() for name, leaf in gradients.items()})
        losses += loss.tolist()
    site.loss = float(np.mean(losses)) if losses else float("nan")
    return total


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


def _chosen(site: PatientGradients, patient: int, seed: float, row_of_image: Rows) -> Chosen:
    """Return at most m images of one patient, and how each is seen; from the patient's stream."""
    rng = np.random.default_rng(int(seed * 2**53))
    own = site.cohort.images_of(patient)
    rows = rng.permutation(own[row_of_image[own] >= 0])[: site.images_per_patient]
    return rows, drawn_views(site.augment, len(rows), rng)
