"""Patient DP-SGD: what a learner is given instead of data.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1, with patients for examples:

    S = {p : U_p < q} over all patients
    g_p = mean over at most m of the patient's own images of grad loss(phi), over body and head
    answer = (sum_S g_p min(1, C / |g_p|) + N(0, (sigma C)^2 I)) / (q N0)

A patient adds one vector of norm at most C to each answer, whatever phi is; the divisor is public.
So each answer is one Poisson-subsampled Gaussian mechanism under adding or removing one patient,
and everything that a learner makes of the answers is post-processing (docs/threat-model.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.augmentation import augmented
from metaward.episodes import Examples
from metaward.errors import PrivacyError
from metaward.meta.head import Head
from metaward.meta.noised import Parameters
from metaward.models.body import Body
from metaward.study import Augment
from metaward.tasks import Task
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums, Normals
from metaward_client.privacy.poisson import poisson_sample

HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
"""Names of the head's leaves in a sum; no body has leaves of these names."""
PATIENTS_AT_ONCE = 64
"""Patients whose gradients are held at the same time; bounds memory, changes no result."""
MIXES_PATIENTS = (
    torch.nn.modules.batchnorm._BatchNorm,
    torch.nn.modules.instancenorm._InstanceNorm,
)

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """All patients of a site, as DP-SGD sees them.

    Attributes:
        task: The site's images.
        images_of: Rows of each patient's images with a label of the public list; may be empty.
        label_of: Index into the public list for each image; -1 where it is not on the list.
    """

    task: Task
    images_of: tuple[Rows, ...]
    label_of: NDArray[np.int64]

    @classmethod
    def of(cls, task: Task, labels: Sequence[str]) -> "Cohort":
        """Group a task by patient, with the labels of a public list."""
        number = {name: index for index, name in enumerate(labels)}
        translate = np.array([number.get(name, -1) for name in task.label_names] or [-1])
        label_of = translate[task.labels]
        order = np.argsort(task.patients, kind="stable")
        ends = np.flatnonzero(np.diff(task.patients[order])) + 1
        everyone = np.split(order, ends) if len(order) else []
        rows = (patient[label_of[patient] >= 0] for patient in everyone)
        return cls(task, tuple(rows), label_of)

    @property
    def n_patients(self) -> int:
        """Number of patients, those without a usable image included."""
        return len(self.images_of)


@dataclass(frozen=True)
class PatientBatch:
    """Images of some patients, padded to equal numbers.

    Attributes:
        images: (n_patients, m, channels, size, size) float32, standardised.
        labels: (n_patients, m) int64, rows of the head.
        weights: (n_patients, m) float32; one over the patient's images, 0 for padding.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


@dataclass
class PatientGradients:
    """The :class:`~metaward.meta.noised.NoisedGradient` of one site and round.

    Attributes:
        body: The network.
        cohort: All patients.
        sums: Adds the noise and counts the answers.
        images_per_patient: m.
        augment: How an image is changed; each patient's images by themselves.
        rng: Choice and change of a patient's own images. Not the noise.
        loss: Mean loss of the patients drawn last, for the site's own log; never leaves.
    """

    body: Body
    cohort: Cohort
    sums: NoisedSums
    images_per_patient: int
    augment: Augment
    rng: np.random.Generator
    loss: float = float("nan")

    def __post_init__(self) -> None:
        refuse_shared_statistics(self.body)

    def __call__(self, at: Parameters, classes: Sequence[int]) -> Parameters:
        """Return the noised mean gradient; see :class:`metaward.meta.noised.NoisedGradient`."""
        flat = {**at.body, HEAD_WEIGHT: at.head.weight, HEAD_BIAS: at.head.bias}
        shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}
        drawn = poisson_sample(self.cohort.n_patients, self.sums.terms.sample_rate, self.source)
        total = clipped_sum(self, flat, drawn, classes)
        noised = self.sums.release(total, shapes)
        answer = {name: torch.from_numpy(leaf.astype(np.float32)) for name, leaf in noised.items()}
        head = Head(answer.pop(HEAD_WEIGHT), answer.pop(HEAD_BIAS))
        return Parameters(answer, head)

    @property
    def source(self) -> Normals:
        """Where the draw of patients and the noise come from."""
        return self.sums.source


def clipped_sum(
    site: PatientGradients, flat: Tensors, drawn: Rows, classes: Sequence[int]
) -> ClippedSum:
    """Return the sum of the drawn patients' clipped gradients; the sum over nobody is zero."""
    shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}
    total = ClippedSum.empty(shapes, site.sums.max_grad_norm)
    losses: list[float] = []
    for batch in _batches(site, drawn, classes):
        gradients, loss = patient_gradients(site.body, flat, batch)
        total.add({name: leaf.numpy() for name, leaf in gradients.items()})
        losses += loss.tolist()
    site.loss = float(np.mean(losses)) if losses else float("nan")
    return total


def patient_gradients(
    body: Body, flat: Tensors, batch: PatientBatch
) -> tuple[Tensors, torch.Tensor]:
    """Return each patient's gradient, leaf by leaf (n_patients, *shape), and loss (n_patients,).

    The loss of a patient is the weighted mean cross-entropy of that patient's images alone.
    """

    def loss_of_one(
        parameters: Tensors, images: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = {name: parameters[name] for name in parameters if name not in _HEAD}
        features = functional_call(body, own, (images,))
        logits = features @ parameters[HEAD_WEIGHT].T + parameters[HEAD_BIAS]
        loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
        return loss, loss.detach()

    every = vmap(grad(loss_of_one, has_aux=True), in_dims=(None, 0, 0, 0))
    detached = {name: leaf.detach() for name, leaf in flat.items()}
    gradients, losses = every(detached, batch.images, batch.labels, batch.weights)
    return {name: leaf.detach() for name, leaf in gradients.items()}, losses


_HEAD = frozenset((HEAD_WEIGHT, HEAD_BIAS))


def refuse_shared_statistics(body: torch.nn.Module) -> None:
    """Refuse a network in which one patient's images change another's features.

    Raises:
        PrivacyError: A layer that takes statistics over a batch, or any buffer: state that would
            pass from patient to patient without noise.
    """
    mixing = [type(part).__name__ for part in body.modules() if isinstance(part, MIXES_PATIENTS)]
    if mixing or next(body.buffers(), None) is not None:
        raise PrivacyError(
            f"a network with {mixing[0] if mixing else 'buffers'}",
            expected="no batch statistics and no buffers: they mix patients, unclipped",
            where="the study's model",
            next_step="Use GroupNorm.",
        )


def _batches(site: PatientGradients, drawn: Rows, classes: Sequence[int]) -> Iterator[PatientBatch]:
    """Give the drawn patients' images; a patient without an image of these classes adds nothing."""
    cohort = site.cohort
    row_of = np.full(max(cohort.label_of.max(initial=-1), max(classes)) + 2, -1)
    row_of[list(classes)] = np.arange(len(classes))
    chosen: list[Rows] = []
    for patient in drawn:
        rows = cohort.images_of[patient]
        rows = rows[row_of[cohort.label_of[rows]] >= 0]
        if len(rows):
            chosen.append(site.rng.permutation(rows)[: site.images_per_patient])
    for start in range(0, len(chosen), PATIENTS_AT_ONCE):
        yield _padded(site, chosen[start : start + PATIENTS_AT_ONCE], row_of)


def _padded(site: PatientGradients, chosen: list[Rows], row_of: NDArray[np.int64]) -> PatientBatch:
    task = site.cohort.task
    most = max(len(rows) for rows in chosen)
    together = np.concatenate(chosen)
    labels = torch.from_numpy(row_of[site.cohort.label_of[together]])
    flat = augmented(Examples(task.take(together), labels, 0), site.augment, site.rng)
    images = torch.zeros(len(chosen), most, *flat.images.shape[1:])
    padded_labels = torch.zeros(len(chosen), most, dtype=torch.int64)
    weights = torch.zeros(len(chosen), most)
    start = 0
    for number, rows in enumerate(chosen):
        own = slice(start, start + len(rows))
        images[number, : len(rows)] = flat.images[own]
        padded_labels[number, : len(rows)] = flat.labels[own]
        weights[number, : len(rows)] = 1.0 / len(rows)
        start += len(rows)
    return PatientBatch(images, padded_labels, weights)
