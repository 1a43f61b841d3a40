"""Synthetic hospitals as DICOM: turn drawn images into what a scanner would have stored."""

import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from metaward.errors import ConfigError, DataError
from metaward_sim.hospital_folder import (
    HospitalSummary,
    HospitalWriter,
    OnProgress,
    check_name,
    is_hospital,
)
from metaward_sim.image_record import ImageRecord, Pixels
from metaward_sim.scanner_style import Modality, Nesting, ScannerStyle, TransferSyntax
from metaward_sim.staged_folders import staged_folders

CT_INTERCEPT = -1024.0
"""HU of the stored value 0, as CT scanners choose it."""
CT_WINDOW = (40.0, 400.0)
"""(centre, width) in HU: soft tissue. The drawn grey values 0 and 1 are its two ends."""

NOTICE = """\
Synthetic hospital, drawn by a program (metaward data demo).
No image shows a patient, no id belongs to a person, no hospital of this name is meant.
Good for trying the software out; results on it say nothing about medicine.
"""


class DrawnImage(Protocol):
    """An image that a generator drew."""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """(height, width) or (height, width, 3), float32 in [0, 1]."""

    @property
    def patient(self) -> str:
        """Id of the patient."""

    @property
    def label(self) -> str:
        """Name of the label."""


class Plan(Protocol):
    """What decides a synthetic hospital; `metaward_sim.cohort.hospitals.HospitalPlan` is one."""

    @property
    def name(self) -> str:
        """Name of the hospital."""

    @property
    def modality(self) -> str:
        """CR, CT, MR, US or XC."""

    @property
    def manufacturer(self) -> str:
        """Name of the scanner's maker."""

    @property
    def transfer_syntax(self) -> str:
        """One of `TransferSyntax`."""

    @property
    def bits_stored(self) -> int:
        """Significant bits of a grey pixel."""

    @property
    def monochrome1(self) -> bool:
        """True when the scanner stores 0 as white."""

    @property
    def n_images(self) -> int:
        """Number of images that `images` gives."""

    def images(self) -> Iterator[DrawnImage]:
        """Give the images, equal to the bit at every call."""


@dataclass(frozen=True)
class DemoRequest:
    """Which hospitals to draw: equal requests give equal bytes.

    ``patients`` is the mean number of patients per finding; None leaves it to the generator.
    """

    hospitals: int
    seed: int
    patients: int | None = None

    def __post_init__(self) -> None:
        for name, value, fewest in (
            ("hospitals", self.hospitals, 1),
            ("seed", self.seed, 0),
            ("patients", self.patients, 1),
        ):
            if value is not None and value < fewest:
                raise ConfigError(
                    f"{value} for {name}", expected=f"{fewest} or more", where=f"--{name}"
                )


PlanMaker = Callable[[DemoRequest], Sequence[Plan]]
"""Makes the plans of all hospitals."""


def drawn_plans(request: DemoRequest) -> Sequence[Plan]:
    """Return the plans of `metaward_sim.cohort`."""
    from metaward_sim.cohort.hospitals import demo_hospitals

    if request.patients is None:
        return demo_hospitals(request.hospitals, seed=request.seed)
    return demo_hospitals(request.hospitals, seed=request.seed, patients=request.patients)


def write_demo(
    out: Path,
    *,
    hospitals: int = 10,
    seed: int = 0,
    patients: int | None = None,
    workers: int = 1,
    force: bool = False,
    on_progress: OnProgress | None = None,
    make_plans: PlanMaker = drawn_plans,
) -> list[HospitalSummary]:
    """Write synthetic hospitals to ``out/<name>``, all of them or none.

    Args:
        out: Parent folder; made if it is missing.
        hospitals: Number of hospitals, from 1.
        seed: Equal arguments give equal bytes, whatever the number of workers.
        patients: Mean number of patients per finding; None for the generator's own choice.
        workers: Processes; each writes whole hospitals. 1 stays in this process.
        force: Replace hospitals that are there already.
        on_progress: Called with the number of images written since the last call: after every
            image with one worker, after every hospital with several.
        make_plans: For tests with small stand-ins.

    Raises:
        ConfigError: A bad number, or a hospital is there already.
        DataError: The disk is full, or a worker process died.
    """
    request = DemoRequest(hospitals=hospitals, seed=seed, patients=patients)
    plans = make_plans(request)
    names = [plan.name for plan in plans]
    for name in names:
        check_name(name)
    report = on_progress or _ignore
    with staged_folders(out, names, force=force, may_replace=is_hospital) as staged:
        folders = [staged.path(name) for name in names]
        if min(workers, len(plans)) > 1:
            n_workers = min(workers, len(plans))
            summaries = _write_in_processes(plans, folders, seed, n_workers, report)
        else:
            summaries = [
                write_plan(plan, folder, seed=seed, on_progress=report)
                for plan, folder in zip(plans, folders, strict=True)
            ]
    return [replace(summary, path=out / summary.name) for summary in summaries]


def write_plan(plan: Plan, folder: Path, *, seed: int, on_progress: OnProgress) -> HospitalSummary:
    """Write one hospital into an existing, empty folder."""
    styles = {colour: style_of(plan, colour=colour) for colour in (False, True)}
    with HospitalWriter(
        folder,
        name=plan.name,
        style=lambda record: styles[record.is_colour],
        notice=NOTICE,
        synthetic=True,
        uid_seed=f"demo {seed}",
    ) as writer:
        for image in plan.images():
            writer.add(to_record(image, styles[image.pixels.ndim == 3]))
            on_progress(1)
    return writer.summary(folder)


def style_of(plan: Plan, *, colour: bool) -> ScannerStyle:
    """Return the scanner of a plan, for its grey or its colour images.

    Raises:
        ValueError: The plan asks for what its modality can't store.
    """
    nestings: tuple[Nesting, ...] = get_args(Nesting)
    common = ScannerStyle(
        modality=cast(Modality, plan.modality),
        secondary_capture=colour and plan.modality not in ("US", "XC"),
        manufacturer=plan.manufacturer,
        transfer_syntax=cast(TransferSyntax, plan.transfer_syntax),
        photometric="RGB" if colour else "MONOCHROME1" if plan.monochrome1 else "MONOCHROME2",
        bits_stored=8 if colour else plan.bits_stored,
        rescale=(1.0, CT_INTERCEPT) if plan.modality == "CT" and not colour else None,
        nesting=nestings[zlib.crc32(plan.name.encode()) % len(nestings)],
    )
    if colour:
        return common
    match plan.modality:
        case "CT":
            return replace(common, window=CT_WINDOW)
        case "MR":
            levels = 2.0**plan.bits_stored
            return replace(common, window=(levels / 2, levels))
        case _:
            return common


def to_record(image: DrawnImage, style: ScannerStyle) -> ImageRecord:
    """Turn grey values in [0, 1] into the values that the scanner stores.

    A reader that applies the rescale, the window and the inversion of MONOCHROME1 gets the grey
    values back, to the nearest stored level. CT fills its window of 400 HU; the others fill
    ``bits_stored``.

    Raises:
        ValueError: A value outside [0, 1].
    """
    grey = np.asarray(image.pixels, dtype=np.float64)
    if not (grey.min() >= 0.0 and grey.max() <= 1.0):
        raise ValueError("a drawn grey value outside [0, 1]")
    if style.photometric == "MONOCHROME1":
        grey = 1.0 - grey
    low, high = _stored_range(style)
    stored = np.rint(low + grey * (high - low))
    pixels: Pixels = stored.astype(np.uint8) if high <= 255 else stored.astype(np.uint16)
    return ImageRecord(pixels=pixels, patient=image.patient, label=image.label)


def _stored_range(style: ScannerStyle) -> tuple[float, float]:
    """Return the stored values of grey 0 and 1; window ends as PS3.3 C.11.2.1.2.1 has them."""
    if style.rescale is None or style.window is None:
        return 0.0, 2.0**style.bits_stored - 1
    slope, intercept = style.rescale
    centre, width = style.window
    low = centre - 0.5 - (width - 1) / 2
    return (low - intercept) / slope, (low + width - 1 - intercept) / slope


def _write_in_processes(
    plans: Sequence[Plan], folders: Sequence[Path], seed: int, workers: int, report: OnProgress
) -> list[HospitalSummary]:
    """Write whole hospitals side by side; the plans travel to the workers, so they pickle."""
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    ) as pool:
        futures = [
            pool.submit(write_plan, plan, folder, seed=seed, on_progress=_ignore)
            for plan, folder in zip(plans, folders, strict=True)
        ]
        try:
            for future in as_completed(futures):
                report(future.result().n_images)
        except BrokenProcessPool:
            raise DataError(
                "a process that draws hospitals was ended from outside; nothing was kept",
                expected="enough free memory for every worker",
                next_step="Free some memory, or lower the number of workers.",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ignore(_: int) -> None:
    """Take a report of progress that nobody asked for."""
