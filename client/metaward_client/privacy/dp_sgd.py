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
together (``vmap``), a tenth of the time of one after the other; which patients share a batch then
moves a gradient by its last bits, which the clip norm's margin covers
(:data:`~metaward_client.privacy.clip_norm.ROUNDING_MARGIN`).
"""

from collections.abc import Sequence
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
PATIENTS_AT_ONCE = 32
"""Gradients that are held at the same time. Of 16, 32 and 64 the fastest over all widths."""
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
    chosen: list[Examples] = []
    for patient in drawn:
        rng = np.random.default_rng(int(seeds[patient] * 2**53))
        images = _images_of(site, int(patient), classes, rng)
        if images is not None:
            chosen.append(images)
    losses: list[float] = []
    for start in range(0, len(chosen), PATIENTS_AT_ONCE):
        batch = chosen[start : start + PATIENTS_AT_ONCE]
        gradients, loss = patient_gradients(site.body, flat, batch)
        total.add({name: leaf.numpy() for name, leaf in gradients.items()})
        losses += loss.tolist()
    site.loss = float(np.mean(losses)) if losses else float("nan")
    return total


def patient_gradients(
    body: Body, flat: Tensors, patients: Sequence[Examples]
) -> tuple[Tensors, torch.Tensor]:
    """Return each patient's gradient and loss.

    Args:
        body: The network.
        flat: Parameters of body and head.
        patients: At least one image each; a patient's loss is their mean cross-entropy.

    Returns:
        Leaf name -> (n_patients, *shape), and (n_patients,).
    """

    def loss_of_one(
        parameters: Tensors, images: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = {name: leaf for name, leaf in parameters.items() if name not in _HEAD}
        features = functional_call(body, own, (images,))
        logits = features @ parameters[HEAD_WEIGHT].T + parameters[HEAD_BIAS]
        loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
        return loss, loss

    n = len(patients)
    # a batch of one is computed in another way, to other last bits
    images, labels, weights = _padded(patients if n > 1 else [*patients, *patients])
    gradients_of = vmap(grad(loss_of_one, has_aux=True), in_dims=(None, 0, 0, 0))
    still = {name: leaf.detach() for name, leaf in flat.items()}
    gradients, losses = gradients_of(still, images, labels, weights)
    return {name: leaf.detach()[:n] for name, leaf in gradients.items()}, losses.detach()[:n]


def _padded(patients: Sequence[Examples]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stack patients; who has fewer images than others is filled up with copies that weigh 0."""
    most = max(len(patient.labels) for patient in patients)
    images, labels, weights = [], [], []
    for patient in patients:
        n = len(patient.labels)
        rows = torch.arange(most) % n
        images.append(patient.images[rows])
        labels.append(patient.labels[rows])
        weights.append((torch.arange(most) < n).to(patient.images.dtype) / n)
    return torch.stack(images), torch.stack(labels), torch.stack(weights)


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


def _images_of(
    site: PatientGradients, patient: int, classes: Sequence[int], rng: np.random.Generator
) -> Examples | None:
    """Return at most m of one patient's images of these classes, changed; None without any."""
    cohort = site.cohort
    row_of = {label: row for row, label in enumerate(classes)}
    rows = cohort.images_of[patient]
    rows = rows[np.isin(cohort.label_of[rows], list(classes))]
    if not len(rows):
        return None
    chosen = rng.permutation(rows)[: site.images_per_patient]
    labels = torch.tensor([row_of[int(label)] for label in cohort.label_of[chosen]])
    return augmented(Examples(cohort.task.take(chosen), labels, len(classes)), site.augment, rng)
