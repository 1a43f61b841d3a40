"""What an importer gives: one row per image, its columns as text, its pixels on demand."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metaward_sim.image_record import Pixels

ReadPixels: TypeAlias = Callable[[Sequence[int]], Iterator[Pixels]]
"""Ascending row numbers from 0 -> their pixels, in that order, read one after the other."""


@dataclass(frozen=True)
class ImageSource:
    """A collection of images, whatever it came from.

    Attributes:
        labels: One per image; empty where the source has none.
        patients: One per image, empty where unknown; None when the source names no patients.
        sites: One per image, empty where unknown; None when the source has one site.
        read_pixels: Reads images. Raises DataError for one that can't be used.
        taken: What was taken for what, one sentence each, for the user to check.
        row_noun: What a row is called in messages: "row" of a table, "image" of an array.
        bytes_per_image: Size of an image's pixels, where all are alike; 0 when unknown.
    """

    labels: Sequence[str]
    patients: Sequence[str] | None
    sites: Sequence[str] | None
    read_pixels: ReadPixels
    taken: tuple[str, ...] = ()
    row_noun: str = "image"
    bytes_per_image: int = 0

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ColumnChoice:
    """What the user said about where things stand; None leaves it to the importer.

    Attributes:
        images: Array of an .npz, or column of paths in a table.
        label: Array or column with the labels.
        patient: Array or column with the patients.
        site: Array or column with the sites.
        label_names: Names of the labels 0, 1, 2, ...
    """

    images: str | None = None
    label: str | None = None
    patient: str | None = None
    site: str | None = None
    label_names: tuple[str, ...] = ()
