"""What `write_demo` promises: what was drawn is what a site reads, and equal seeds equal bytes."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.processing import apply_modality_lut

from metaward.errors import ConfigError
from metaward_client.site import load_site
from metaward_sim.cohort.hospitals import demo_hospitals
from metaward_sim.demo_data import DemoRequest, style_of, to_record, write_demo


@dataclass(frozen=True)
class Drawn:
    pixels: NDArray[np.float32]
    patient: str = "north-1"
    label: str = "cyst"


@dataclass(frozen=True)
class TinyPlan:
    """One image, with a ramp from black to white."""

    modality: str = "CR"
    transfer_syntax: str = "explicit-le"
    bits_stored: int = 12
    monochrome1: bool = False
    colour: bool = False
    name: str = "north"
    manufacturer: str = "Synthetic Alpha"
    n_images: int = 1

    def images(self) -> Iterator[Drawn]:
        yield Drawn(ramp(colour=self.colour))


@dataclass(frozen=True)
class MakeTiny:
    plan: TinyPlan

    def __call__(self, request: DemoRequest) -> Sequence[TinyPlan]:
        return [replace(self.plan, name=f"h{index}") for index in range(request.hospitals)]


def ramp(*, colour: bool) -> NDArray[np.float32]:
    grey = np.linspace(0, 1, 32 * 40, dtype=np.float32).reshape(32, 40)
    return np.stack([grey, grey[::-1], grey * 0.5], axis=2) if colour else grey


def write_tiny(out: Path, plan: TinyPlan) -> Path:
    write_demo(out, hospitals=1, make_plans=MakeTiny(plan))
    (path,) = (path for path in (out / "h0" / "images").rglob("*") if path.is_file())
    return path


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [(str(path.relative_to(folder)), path.read_bytes()) for path in files]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.mark.parametrize("monochrome1", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_reader_gets_the_drawn_grey_back(tmp_path: Path, bits: int, monochrome1: bool) -> None:
    dataset = dcmread(write_tiny(tmp_path, TinyPlan(bits_stored=bits, monochrome1=monochrome1)))
    grey = dataset.pixel_array / (2**bits - 1)
    assert dataset.PhotometricInterpretation == f"MONOCHROME{1 if monochrome1 else 2}"
    np.testing.assert_allclose(1 - grey if monochrome1 else grey, ramp(colour=False), atol=2**-bits)


def test_ct_fills_its_window_in_hounsfield_units(tmp_path: Path) -> None:
    dataset = dcmread(write_tiny(tmp_path, TinyPlan("CT", "rle")))
    hounsfield = apply_modality_lut(dataset.pixel_array, dataset)
    # Window 40 / 400: from 40 - 0.5 - 399 / 2 = -160 to 239 HU.
    assert (hounsfield.min(), hounsfield.max()) == (-160, 239)
    assert (dataset.WindowCenter, dataset.WindowWidth) == (40, 400)


def test_colour_is_stored_as_colour(tmp_path: Path) -> None:
    dataset = dcmread(write_tiny(tmp_path, TinyPlan("XC", bits_stored=8, colour=True)))
    assert dataset.PhotometricInterpretation == "RGB"
    np.testing.assert_allclose(dataset.pixel_array / 255, ramp(colour=True), atol=1 / 255)


def test_a_drawn_value_outside_its_range_is_refused() -> None:
    plan = TinyPlan()
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        to_record(Drawn(np.full((4, 4), 1.01, np.float32)), style_of(plan, colour=False))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        to_record(Drawn(np.full((4, 4), np.nan, np.float32)), style_of(plan, colour=False))


@pytest.mark.parametrize("index", range(5))
def test_a_site_reads_what_the_cohort_drew(tmp_path: Path, index: int) -> None:
    write_demo(tmp_path, hospitals=5, patients=1)
    plan = demo_hospitals(5, seed=0, patients=1)[index]
    drawn = list(plan.images())
    colour = drawn[0].pixels.ndim == 3
    task = load_site(tmp_path / plan.name).load_task(image_size=64, channels=3 if colour else 1)
    assert task.n_images == len(drawn)
    assert task.n_patients == len({image.patient for image in drawn})
    assert set(task.label_names) == {image.label for image in drawn}
    given = np.stack([np.atleast_3d(image.pixels).transpose(2, 0, 1) for image in drawn])
    for image in task.images.astype(np.float64):
        likeness = [np.corrcoef(image.ravel(), other.ravel())[0, 1] for other in given]
        # Without a window in the file a site cuts off the darkest and brightest few pixels.
        assert max(likeness) > 0.99


def test_equal_seeds_give_equal_bytes_with_any_number_of_processes(tmp_path: Path) -> None:
    summaries = [
        write_demo(tmp_path / str(workers), hospitals=3, seed=5, patients=1, workers=workers)
        for workers in (1, 2)
    ]
    assert digest(tmp_path / "1") == digest(tmp_path / "2")
    assert [s.labels for s in summaries[0]] == [s.labels for s in summaries[1]]
    write_demo(tmp_path / "other", hospitals=3, seed=6, patients=1)
    assert digest(tmp_path / "1") != digest(tmp_path / "other")


def test_every_file_and_folder_says_that_it_is_synthetic(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, TinyPlan())
    dataset = dcmread(path)
    assert dataset.InstitutionName == "Synthetic hospital h0"
    assert str(dataset.PatientName).startswith("Synthetic^")
    assert "DERIVED" in dataset.ImageType
    assert "No image shows a patient" in (tmp_path / "h0" / "NOTICE").read_text()


def test_progress_counts_every_image_with_one_process_and_with_two(tmp_path: Path) -> None:
    for workers in (1, 2):
        seen: list[int] = []
        summaries = write_demo(
            tmp_path / str(workers),
            hospitals=2,
            patients=1,
            workers=workers,
            on_progress=seen.append,
        )
        assert sum(seen) == sum(summary.n_images for summary in summaries) > 0


def test_a_hospital_that_fails_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never MONOCHROME1"):
        write_demo(
            tmp_path, hospitals=2, make_plans=MakeTiny(TinyPlan("US", "rle", 8, monochrome1=True))
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"hospitals": 0}, "0 for hospitals; expected 1 or more"),
        ({"seed": -1}, "-1 for seed"),
        ({"patients": 0}, "0 for patients"),
    ],
)
def test_impossible_numbers_are_refused(
    tmp_path: Path, request_: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_demo(tmp_path / "out", **request_)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
