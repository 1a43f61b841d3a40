"""Import a collection of images: read it, choose rows, write one hospital per site."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from metaward.errors import ConfigError, DataError
from metaward_sim.hospital_folder import (
    HospitalSummary,
    HospitalWriter,
    OnProgress,
    check_name,
    is_hospital,
)
from metaward_sim.image_record import ImageRecord
from metaward_sim.importers.image_source import ColumnChoice, ImageSource
from metaward_sim.importers.repeated_pictures import RepeatedPictures
from metaward_sim.importers.selection import Selection, SharedPatients, select
from metaward_sim.scanner_style import Modality, ScannerStyle
from metaward_sim.staged_folders import staged_folders

_FILE_OVERHEAD_BYTES = 4096
"""Header of a DICOM file, and what a file system adds, per image."""

_NOTICE = """\
Imported with metaward data import from {source}.
The files are Secondary Capture: the source says nothing about scanner, geometry or dates, and
neither do they. The licence and the terms of the source hold for these images as well.
"""


@dataclass(frozen=True)
class ImportRequest:
    """What to import, and how.

    Attributes:
        source: An .npz, a folder of picture folders, or a CSV table.
        columns: What the user said about columns and arrays.
        image_root: Folder that a table's paths start from.
        name: Name of the hospital, or the beginning of the names of several.
        modality: Modality (0008,0060) of every file.
        shared_patients: See `SharedPatients`.
        max_images: Take a random subset of at most so many images, by whole patients.
        seed: Seed of that subset.
        force: Replace hospitals that are there already.
    """

    source: Path
    columns: ColumnChoice = field(default_factory=ColumnChoice)
    image_root: Path | None = None
    name: str | None = None
    modality: Modality = "OT"
    shared_patients: SharedPatients = "one-site"
    max_images: int | None = None
    seed: int = 0
    force: bool = False


@dataclass(frozen=True)
class ImportResult:
    """What was imported: the hospitals, what was taken for what, and what was left out."""

    hospitals: tuple[HospitalSummary, ...]
    taken: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class ImportPlan:
    """A source that was understood, and the rows chosen from it; nothing is written yet."""

    request: ImportRequest
    source: ImageSource
    selection: Selection

    @property
    def n_images(self) -> int:
        """Number of images that will be written."""
        return len(self.selection.rows)


def plan_import(request: ImportRequest) -> ImportPlan:
    """Read the columns of the source and choose the rows.

    Raises:
        ConfigError: No such source, a kind that can't be imported, or options that don't fit it.
        DataError: The source can't be used as asked.
    """
    if request.name is not None:
        check_name(request.name)
    source = _read_source(request)
    selection = select(
        source,
        name=request.name,
        fallback_name=request.source.resolve().stem,
        shared_patients=request.shared_patients,
        max_images=request.max_images,
        seed=request.seed,
    )
    return ImportPlan(request, source, selection)


def write_import(
    plan: ImportPlan, out: Path, *, on_progress: OnProgress | None = None
) -> ImportResult:
    """Write one hospital per site to ``out/<name>``: all of them or none.

    Raises:
        ConfigError: A hospital is there already, or ``out`` can't be written to.
        DataError: An image can't be used, or the disk is full.
    """
    request, selection = plan.request, plan.selection
    names = sorted(set(selection.hospitals))
    _check_space(plan, out)
    repeated = RepeatedPictures()
    with staged_folders(out, names, force=request.force, may_replace=is_hospital) as staged:
        with contextlib.ExitStack() as stack:
            writers = {
                name: stack.enter_context(
                    HospitalWriter(
                        staged.path(name),
                        name=name,
                        style=lambda record: style_for(record, request.modality),
                        notice=_NOTICE.format(source=request.source.name),
                        synthetic=False,
                        uid_seed=f"import {request.source.name}",
                    )
                )
                for name in names
            }
            for hospital, record in zip(selection.hospitals, _records(plan), strict=True):
                writers[hospital].add(record)
                repeated.add(hospital, record)
                if on_progress is not None:
                    on_progress(1)
        summaries = [writers[name].summary(out / name) for name in names]
    remarks = (*selection.remarks, *repeated.remarks())
    return ImportResult(tuple(summaries), plan.source.taken, remarks)


def style_for(record: ImageRecord, modality: Modality) -> ScannerStyle:
    """Return the style that stores an imported image as it is."""
    style = ScannerStyle(modality=modality, secondary_capture=True)
    if record.is_colour:
        return replace(style, photometric="RGB")
    match record.pixels.dtype:
        case np.uint8:
            return style
        case np.int16:
            return replace(style, bits_stored=16, signed=True)
        case _:
            return replace(style, bits_stored=16)


def _records(plan: ImportPlan) -> Iterator[ImageRecord]:
    rows = plan.selection.rows
    pixels = plan.source.read_pixels(rows)
    for row, patient, image in zip(rows, plan.selection.patients, pixels, strict=True):
        yield ImageRecord(pixels=image, patient=patient, label=plan.source.labels[row])


def _read_source(request: ImportRequest) -> ImageSource:
    path = request.source
    is_table = path.suffix.lower() in (".csv", ".tsv")
    if not path.exists():
        raise ConfigError(
            "no such file or folder",
            expected="an .npz, a folder of pictures or a CSV table",
            where=str(path),
            next_step="Check the path.",
        )
    if request.image_root is not None:
        _check_image_root(request.image_root, is_table=is_table)
    if path.is_dir():
        from metaward_sim.importers.image_folders import read_image_folders

        return read_image_folders(path, request.columns)
    if is_table:
        from metaward_sim.importers.table import read_table

        return read_table(path, request.columns, image_root=request.image_root)
    if path.suffix.lower() == ".npz":
        from metaward_sim.importers.npz import read_npz

        return read_npz(path, request.columns)
    raise ConfigError(
        f"a file of kind '{path.suffix or 'without extension'}'",
        expected="an .npz, a folder of PNG or JPEG pictures, or a .csv table",
        where=str(path),
        next_step="A folder of DICOM files needs no import: see metaward site scan.",
    )


def _check_image_root(image_root: Path, *, is_table: bool) -> None:
    if not is_table:
        raise ConfigError(
            "--image-root without a table",
            expected="it together with a .csv table whose paths start there",
            next_step="Leave it out.",
        )
    if not image_root.is_dir():
        raise ConfigError(
            "no such folder", expected="a folder of pictures", where=f"--image-root {image_root}"
        )


def _check_space(plan: ImportPlan, out: Path) -> None:
    """Refuse before the work what the disk can't hold, where the size is known."""
    parent = next((folder for folder in (out, *out.absolute().parents) if folder.is_dir()), None)
    needed = plan.n_images * (plan.source.bytes_per_image + _FILE_OVERHEAD_BYTES)
    if parent is not None and shutil.disk_usage(parent).free < needed:
        raise DataError(
            f"{shutil.disk_usage(parent).free / 2**30:.1f} GiB of free space",
            expected=f"about {needed / 2**30:.1f} GiB for {plan.n_images} images",
            where=str(out),
            next_step="Free some space, choose another --out, or take fewer with --max-images.",
        )
