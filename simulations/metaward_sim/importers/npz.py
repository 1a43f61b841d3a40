"""Import an .npz: MedMNIST's six arrays, or any image array with its columns beside it.

Arrays that differ only by a split's name (``train_images``, ``val_images``, ``test_images``, or
``x_train``, ``x_test``) are joined: which patients are held out is decided later, by patient.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaward.errors import DataError
from metaward_sim.image_record import Pixels
from metaward_sim.importers.column_names import (
    IMAGE_ARRAY_NAMES,
    LABEL_NAMES,
    PATIENT_NAMES,
    SITE_NAMES,
    find_column,
    listed,
)
from metaward_sim.importers.image_source import ColumnChoice, ImageSource
from metaward_sim.importers.npz_archive import NpzArchive
from metaward_sim.importers.pixel_values import MAX_SIDE, check_image_type, to_pixels
from metaward_sim.importers.text_columns import columns_that_repeat, label_texts, texts

_SPLIT = re.compile(r"(train|val|valid|validation|test)_(.+)|(.+)_(train|val|valid|test)")


def read_npz(path: Path, choice: ColumnChoice) -> ImageSource:
    """Find images, labels, patients and sites in an .npz.

    Raises:
        ConfigError: An array that was named is not there, or none has a usual name.
        DataError: The file, its shapes, types or lengths can't be used.
    """
    archive = NpzArchive(path)
    parts = _parts(archive)
    columns = {name: Column(archive, name, members) for name, members in parts.items()}
    images = _find_images(columns, choice.images, path)
    n_images = sum(length for length, *_ in images.shapes)
    where = str(path)

    rows = {n: c for n, c in columns.items() if c is not images and c.is_column(n_images)}
    every = {name: column for name, column in columns.items() if column is not images}
    label = find_column(
        _candidates(rows, every, choice.label, LABEL_NAMES), choice.label, LABEL_NAMES,
        option="--label-column", where=where, required=True,
    )  # fmt: skip
    patient = find_column(
        _candidates(rows, every, choice.patient, PATIENT_NAMES), choice.patient, PATIENT_NAMES,
        option="--patient-column", where=where,
    )  # fmt: skip
    site = find_column(
        every if choice.site else rows, choice.site, SITE_NAMES,
        option="--site-column", where=where,
    )  # fmt: skip
    assert label is not None

    labels, label_source = label_texts(
        every[label].values(n_images),
        choice.label_names or _names_for(every, label, ("classes", "class_names", "label_names")),
        where=every[label].where,
    )
    taken = [images.described(n_images), f"labels: array '{label}'{label_source}"]
    sites = patients = None
    if patient is not None:
        patients = texts(every[patient].values(n_images), (), where=every[patient].where)
        taken.append(f"patients: array '{patient}'")
    if site is not None:
        names = _names_for(every, site, ("sites", "site_names"))
        sites = texts(every[site].values(n_images), names, where=every[site].where)
        taken.append(f"sites: array '{site}'")
    if patient is None:
        others = {n: c.values(n_images) for n, c in rows.items() if n not in (label, site)}
        taken += [
            f"not used: array '{name}' repeats values in several images; if it tells patients "
            f"apart, give --patient-column {name}"
            for name in columns_that_repeat(others)
        ]
    return ImageSource(
        labels=labels,
        patients=patients,
        sites=sites,
        read_pixels=images.read_pixels,
        taken=tuple(taken),
        bytes_per_image=images.bytes_per_image,
    )


def _candidates(
    rows: dict[str, "Column"], every: dict[str, "Column"], wanted: str | None, usual: Sequence[str]
) -> dict[str, "Column"]:
    """Return the arrays to choose from: those of the images' length, if one of them has the name.

    Else all, so that labels or patients of another length are refused, and not passed over: without
    them every image would be a patient.
    """
    named = (name for name in rows if name.lower() in usual)
    return rows if wanted is None and any(named) else every


@dataclass(frozen=True)
class Column:
    """One array, or the arrays of several splits under one name."""

    archive: NpzArchive
    name: str
    members: tuple[str, ...]

    @property
    def where(self) -> str:
        """Place for messages."""
        return self.archive.where(self.name if len(self.members) == 1 else self.members[0])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each part."""
        return [self.archive.headers[member].shape for member in self.members]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the first part."""
        return self.archive.headers[self.members[0]].dtype

    @property
    def bytes_per_image(self) -> int:
        """Size of one image as it is in the file."""
        return self.archive.headers[self.members[0]].n_bytes // max(self.shapes[0][0], 1)

    def is_column(self, n_images: int) -> bool:
        """Say whether there is one value, or one row of values, for each image."""
        if any(len(shape) not in (1, 2) for shape in self.shapes):
            return False
        return sum(shape[0] for shape in self.shapes) == n_images

    def values(self, n_images: int) -> NDArray[np.generic]:
        """Return the column, parts joined.

        Raises:
            DataError: Not one value for each image.
        """
        if not self.is_column(n_images):
            shapes = ", ".join(" x ".join(map(str, shape)) or "()" for shape in self.shapes)
            raise DataError(
                f"an array of shape {shapes} for {n_images} images",
                expected="one value for each image",
                where=self.where,
                next_step="Name another array, or save the file with arrays of equal length.",
            )
        return np.concatenate([self.archive.load(member) for member in self.members])

    def described(self, n_images: int) -> str:
        """Return a sentence about the images."""
        height, width, colour = _image_shape(self.shapes[0], self.where)
        kind = "colour" if colour else "grey"
        joined = f"'{self.name}'" if len(self.members) == 1 else listed(self.members) + " joined"
        return (
            f"images: array {joined}: {n_images} {kind} images of {height} x {width}, {self.dtype}"
        )

    def read_pixels(self, rows: Sequence[int]) -> Iterator[Pixels]:
        """Give the pixels of ascending rows, reading each part once."""
        start = 0
        for member, shape in zip(self.members, self.shapes, strict=True):
            here = [row - start for row in rows if start <= row < start + shape[0]]
            for row, image in zip(here, self.archive.rows(member, here), strict=True):
                place = f"{self.archive.where(member)}, image {row}"
                yield to_pixels(_channels_last(image), where=place)
            start += shape[0]


def _parts(archive: NpzArchive) -> dict[str, tuple[str, ...]]:
    """Group arrays that differ only by the name of a split, when at least two splits are there."""
    groups: dict[str, list[str]] = {}
    for name in archive.headers:
        match = _SPLIT.fullmatch(name)
        groups.setdefault((match[2] or match[3]) if match else name, []).append(name)
    parts: dict[str, tuple[str, ...]] = {}
    for name, members in groups.items():
        if len(members) > 1 and name not in archive.headers:
            parts[name] = tuple(members)
        else:
            parts.update({member: (member,) for member in members})
    return parts


def _find_images(columns: dict[str, Column], wanted: str | None, path: Path) -> Column:
    candidates = {
        name: column
        for name, column in columns.items()
        if all(len(shape) >= 3 for shape in column.shapes)
    }
    if wanted is None and len(candidates) == 1:
        name: str | None = next(iter(candidates))
    else:
        name = find_column(
            columns if wanted else candidates, wanted, IMAGE_ARRAY_NAMES,
            option="--images-array", where=str(path), required=True,
        )  # fmt: skip
    assert name is not None
    images = columns[name]
    layouts = {_image_shape(shape, images.where) for shape in images.shapes}
    types = {images.archive.headers[member].dtype for member in images.members}
    if len(layouts) > 1 or len(types) > 1:
        raise DataError(
            "splits whose images differ in size or type",
            expected="one size and type",
            where=images.where,
            next_step="Import each split with --images-array and --label-column.",
        )
    check_image_type(images.dtype, colour=next(iter(layouts))[2], where=images.where)
    return images


def _image_shape(shape: tuple[int, ...], where: str) -> tuple[int, int, bool]:
    """Return height, width and whether there are three colours.

    Raises:
        DataError: No pictures: volumes, one row of numbers per image, four channels, no pixels.
    """
    match shape[1:]:
        case (height, width):
            colour = False
        case (height, width, (1 | 3) as channels) | ((1 | 3) as channels, height, width):
            colour = channels == 3
        case _:
            raise _no_pictures(shape, where)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and shape[0] > 0):
        raise _no_pictures(shape, where)
    return height, width, colour


def _no_pictures(shape: tuple[int, ...], where: str) -> DataError:
    return DataError(
        f"an array of shape {' x '.join(map(str, shape))}",
        expected="images: count x height x width, with 1 or 3 channels last or second",
        where=where,
        next_step="Reshape the array, take one slice of each volume, or name another array.",
    )


def _channels_last(image: NDArray[np.generic]) -> NDArray[np.generic]:
    if image.ndim == 2:
        return image
    if image.shape[2] not in (1, 3):
        image = np.moveaxis(image, 0, 2)
    return image[:, :, 0] if image.shape[2] == 1 else image


def _names_for(columns: dict[str, Column], name: str, usual: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of a short array that names the numbers of column ``name``."""
    for candidate in (f"{name}_names", f"{name}s", *usual):
        column = columns.get(candidate)
        if column is not None and candidate != name and _is_name_list(column):
            values = column.archive.load(column.members[0])
            return tuple(texts(values, (), where=column.where))
    return ()


def _is_name_list(column: Column) -> bool:
    return len(column.members) == 1 and len(column.shapes[0]) == 1 and column.dtype.kind in "US"
