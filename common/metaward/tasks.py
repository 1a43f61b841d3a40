"""A task: one site's labelled images, with the patient that each image belongs to."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.errors import DataError

CPU = torch.device("cpu")
UPLOADED_AT_ONCE = 1024
"""Images of a task that are on their way to an accelerator."""
STANDARDISE_FLOOR = 1.0e-3
"""Smallest standard deviation that an image is divided by, on the [0, 1] grey scale."""


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem at one site.

    Attributes:
        site: Name of the site.
        images: (n_images, channels, size, size), float16 or float32, grey values in [0, 1].
            May be memory-mapped; nothing here writes to it.
        labels: (n_images,) int64, index into ``label_names``.
        patients: (n_images,) int64; two images of one patient carry the same number. The numbers
            mean nothing outside this object.
        label_names: Name of each label; equal names at two sites need not mean the same finding.
        patient_tokens: Per patient number, what tells that patient from all others whatever images
            there are; empty where nobody asks. Identifies a patient: never stored, shown or sent.
        device: Where what is taken of the task goes, and where a learner works on it.

    Raises:
        DataError: Images are not square or have other axes; labels or patients are not whole
            numbers, one for each image; a label has no name.
    """

    site: str
    images: NDArray[np.floating]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    label_names: tuple[str, ...]
    patient_tokens: tuple[bytes, ...] = field(default=(), repr=False)
    device: torch.device = CPU
    images_of: dict[int, dict[int, NDArray[np.int64]]] = field(init=False, repr=False)
    """label -> patient -> indices of that patient's images with that label."""
    usable: dict[tuple[int, int], NDArray[np.int64]] = field(
        init=False, repr=False, default_factory=dict
    )
    """What :func:`metaward.episodes.usable_labels` found, by shots and queries."""

    def __post_init__(self) -> None:
        where = f"site {self.site}"
        _require_square(self.images.shape, where)
        object.__setattr__(
            self, "labels", _whole_numbers("labels", self.labels, self.images, where)
        )
        object.__setattr__(
            self, "patients", _whole_numbers("patients", self.patients, self.images, where)
        )
        _require_names(self.labels, self.label_names, where)
        table: dict[int, dict[int, list[int]]] = {
            label: {} for label in range(len(self.label_names))
        }
        for index, (label, patient) in enumerate(zip(self.labels, self.patients, strict=True)):
            table[int(label)].setdefault(int(patient), []).append(index)
        frozen = {
            label: {patient: np.asarray(rows) for patient, rows in patients.items()}
            for label, patients in table.items()
        }
        object.__setattr__(self, "images_of", frozen)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def n_patients(self) -> int:
        """Number of different patients."""
        return len(np.unique(self.patients))

    def without_patients(self) -> "Task":
        """Return a task with the same labels and nobody: what noise alone is made from."""
        return replace(
            self,
            images=self.images[:0],
            labels=self.labels[:0],
            patients=self.patients[:0],
            patient_tokens=(),
        )

    def take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Return images as a standardised float32 tensor (n, channels, height, width)."""
        if self.device == CPU:
            return standardise(_tensor(self.images[indices]))
        return self._on_device[torch.from_numpy(indices).to(self.device)]

    @cached_property
    def _on_device(self) -> torch.Tensor:
        """All images, standardised on the CPU: an accelerator is sent them once, and equal bits."""
        parts = range(0, max(self.n_images, 1), UPLOADED_AT_ONCE)
        return torch.cat(
            [
                standardise(_tensor(self.images[first : first + UPLOADED_AT_ONCE])).to(self.device)
                for first in parts
            ]
        )

    def labels_at(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Return the labels of images, (n,) int64."""
        return torch.from_numpy(self.labels[indices]).to(self.device)


def _require_square(shape: tuple[int, ...], where: str) -> None:
    if len(shape) == 4 and shape[2] == shape[3]:
        return
    raise DataError(
        f"images of shape {shape}",
        expected="(images, channels, size, size)",
        where=where,
        next_step="Give grey images an axis, images[:, None]; put channels before height and "
        "width, np.moveaxis(images, -1, 1); make images square.",
    )


def _whole_numbers(
    what: str, values: NDArray[np.int64], images: NDArray[np.floating], where: str
) -> NDArray[np.int64]:
    """Return labels or patients as int64, one for each image."""
    numbers = np.asarray(values)
    if numbers.shape != (len(images),):
        raise DataError(
            f"{what} of shape {numbers.shape} for {len(images)} images",
            expected="one for each image",
            where=where,
        )
    if len(numbers) and numbers.dtype.kind not in "iu":
        raise DataError(
            f"{what} of type {numbers.dtype}",
            expected="whole numbers",
            where=where,
            next_step=f"Number them: names, {what} = np.unique({what}, return_inverse=True).",
        )
    return numbers.astype(np.int64, copy=False)


def _require_names(labels: NDArray[np.int64], names: tuple[str, ...], where: str) -> None:
    if not len(labels) or (labels.min() >= 0 and labels.max() < len(names)):
        return
    raise DataError(
        f"labels from {labels.min()} to {labels.max()}, and {len(names)} label names",
        expected="indices into the names, from 0",
        where=where,
        next_step="Number them: names, labels = np.unique(labels, return_inverse=True).",
    )


def _tensor(images: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(images, dtype=np.float32))


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Shift and scale each image to mean 0 and standard deviation 1 over its own pixels.

    One image at a time, in a call of its own: statistics over several images would mix patients,
    and in one call for all the last bits of a large image hang on how many there are beside it
    (threads share the sum over a single one).
    """
    if not len(images):
        return images
    of_each = [torch.std_mean(image, correction=0) for image in images]
    std, mean = (torch.stack(values).reshape(-1, 1, 1, 1) for values in zip(*of_each, strict=True))
    return (images - mean) / std.clamp_min(STANDARDISE_FLOOR)
