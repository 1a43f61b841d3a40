"""What the DICOM writer promises: valid objects, exact pixels, equal bytes for equal input."""

import doctest
import itertools
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from metaward_sim import dicom_writer
from metaward_sim.dicom_writer import DicomWriter, ScannerStyle, patient_id_of, write_image
from metaward_sim.image_record import ImageRecord, Pixels
from metaward_sim.importers import selection
from metaward_sim.scanner_style import (
    TRANSFER_SYNTAX_UID,
    Modality,
    Photometric,
    TransferSyntax,
)

SYNTAXES: tuple[TransferSyntax, ...] = ("explicit-le", "implicit-le", "rle", "jpeg-ls", "jpeg-2000")
OBJECTS: tuple[
    tuple[Modality, bool, tuple[Photometric, ...], tuple[int, ...], tuple[bool, ...]], ...
] = (
    # modality, secondary capture, photometric interpretations, bits stored, signed
    ("CR", False, ("MONOCHROME1", "MONOCHROME2"), (8, 12, 16), (False, True)),
    ("CT", False, ("MONOCHROME1", "MONOCHROME2"), (12, 16), (False, True)),
    ("MR", False, ("MONOCHROME1", "MONOCHROME2"), (8, 12, 16), (False, True)),
    ("US", False, ("MONOCHROME2", "RGB"), (8,), (False,)),
    ("XC", False, ("MONOCHROME2", "RGB"), (8,), (False,)),
    ("OT", True, ("MONOCHROME1", "MONOCHROME2", "RGB"), (8, 12, 16), (False, True)),
)
STYLES = [
    ScannerStyle(
        modality,
        secondary_capture=secondary,
        manufacturer="Synthetic Alpha",
        transfer_syntax=syntax,
        photometric=photometric,
        bits_stored=bits,
        signed=signed,
        rescale=(1.0, -1024.0) if modality == "CT" else None,
        window=(40.0, 400.0) if modality == "CT" else None,
    )
    for modality, secondary, photometrics, all_bits, signs in OBJECTS
    for syntax, photometric, bits, signed in itertools.product(
        SYNTAXES, photometrics, all_bits, signs
    )
    if not (photometric == "RGB" and (bits != 8 or signed))
]


def noise(style: ScannerStyle, shape: tuple[int, int] = (33, 35)) -> Pixels:
    rng = np.random.default_rng(7)
    if style.is_colour:
        return rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    low, high = 0, 2**style.bits_stored
    if style.signed:
        low, high = -high // 2, high // 2
    pixels = rng.integers(low, high, shape)
    pixels.flat[0], pixels.flat[1] = low, high - 1
    if style.signed:
        return pixels.astype(np.int16)
    return pixels.astype(np.uint8) if style.bits_stored <= 8 else pixels.astype(np.uint16)


def record(style: ScannerStyle, patient: str = "p-1", study: str = "") -> ImageRecord:
    return ImageRecord(noise(style), patient, "nodule", study)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_pixel_comes_back_as_it_was_given(tmp_path: Path, syntax: str) -> None:
    tried = [style for style in STYLES if style.transfer_syntax == syntax]
    assert len(tried) >= 25
    for style in tried:
        given = record(style)
        write_image(tmp_path / "image", given, style, institution="north")
        read = dcmread(tmp_path / "image")
        assert read.file_meta.TransferSyntaxUID == TRANSFER_SYNTAX_UID[syntax], style
        np.testing.assert_array_equal(read.pixel_array, given.pixels, err_msg=str(style))
        assert read.BitsStored == style.bits_stored


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("style", STYLES[:: len(SYNTAXES) + 1], ids=str)
def test_the_validator_finds_no_error(tmp_path: Path, style: ScannerStyle) -> None:
    path = tmp_path / "image.dcm"
    write_image(path, record(style), style, institution="north", synthetic=True)
    answer = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
    )
    assert not [line for line in answer.stderr.splitlines() if line.startswith("Error")]


def test_equal_input_gives_equal_bytes() -> None:
    style = ScannerStyle("MR", bits_stored=12, transfer_syntax="jpeg-ls")
    first, second = (
        DicomWriter(institution="north", uid_seed="0", synthetic=True).encode(
            record(style), style, number=5
        )
        for _ in range(2)
    )
    assert first == second


def test_uids_tell_images_hospitals_and_data_sets_apart() -> None:
    style = ScannerStyle("CR")

    def uids(number: int, institution: str, seed: str, patient: str = "p") -> tuple[str, str]:
        writer = DicomWriter(institution=institution, uid_seed=seed, synthetic=True)
        written, _ = writer.encode(record(style, patient=patient), style, number=number)
        return written.sop_instance_uid, written.study_instance_uid

    base = uids(1, "north", "0")
    assert uids(2, "north", "0")[0] != base[0]
    assert uids(2, "north", "0")[1] == base[1]
    assert uids(1, "north", "0", patient="q")[1] != base[1]
    assert not set(uids(1, "south", "0")) & set(base)
    assert not set(uids(1, "north", "1")) & set(base)
    assert all(len(uid) <= 64 for uid in base)


def test_images_of_one_study_share_study_and_series() -> None:
    style = ScannerStyle("CR")
    writer = DicomWriter(institution="north", uid_seed="0", synthetic=True)
    one, _ = writer.encode(record(style, study="a"), style, number=1)
    two, _ = writer.encode(record(style, study="a"), style, number=2)
    other, _ = writer.encode(record(style, study="b"), style, number=3)
    assert one.study_instance_uid == two.study_instance_uid != other.study_instance_uid
    assert one.series_instance_uid == two.series_instance_uid != other.series_instance_uid


def test_a_synthetic_file_says_so_and_names_no_one(tmp_path: Path) -> None:
    style = ScannerStyle("CR", manufacturer="Synthetic Alpha")
    path = tmp_path / "image"
    write_image(path, record(style), style, institution="Synthetic hospital x", synthetic=True)
    read = dcmread(path)
    assert read.PatientName == "Synthetic^p-1"
    assert read.InstitutionName == "Synthetic hospital x"
    assert list(read.ImageType) == ["DERIVED", "SECONDARY"]
    assert "Synthetic" in read.DerivationDescription
    assert not read.PatientBirthDate
    assert not read.StudyDate


def test_an_imported_file_has_no_patient_name(tmp_path: Path) -> None:
    style = ScannerStyle("OT")
    write_image(tmp_path / "image", record(style), style, institution="north")
    read = dcmread(tmp_path / "image")
    assert not read.PatientName
    assert read.PatientID == "p-1"
    assert "DerivationDescription" not in read


def test_ct_states_hounsfield_units_and_window(tmp_path: Path) -> None:
    style = ScannerStyle("CT", bits_stored=12, rescale=(1.0, -1024.0), window=(40.0, 400.0))
    write_image(tmp_path / "image", record(style), style, institution="north", number=3)
    read = dcmread(tmp_path / "image")
    assert (read.RescaleSlope, read.RescaleIntercept, read.RescaleType) == (1, -1024, "HU")
    assert (read.WindowCenter, read.WindowWidth) == (40, 400)
    assert list(read.ImagePositionPatient) == [0, 0, 3]


def test_patient_ids_in_any_script_survive(tmp_path: Path) -> None:
    style = ScannerStyle("CR")
    write_image(tmp_path / "image", record(style, patient="Łódź-7"), style, institution="north")
    assert dcmread(tmp_path / "image").PatientID == "Łódź-7"


@pytest.mark.parametrize("patient", ["a\\b", " a", "a\n", "x" * 65])
def test_an_id_that_dicom_cannot_hold_becomes_a_digest(patient: str) -> None:
    assert patient_id_of(patient).startswith("sha256-")
    assert patient_id_of(patient) == patient_id_of(patient)
    assert patient_id_of(patient) != patient_id_of(patient + "x")


@pytest.mark.parametrize("module", [dicom_writer, selection])
def test_the_examples_in_docstrings_are_true(module: ModuleType) -> None:
    answer = doctest.testmod(module)
    assert answer.attempted > 0
    assert answer.failed == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "US", "photometric": "MONOCHROME1"}, "never MONOCHROME1"),
        ({"modality": "US", "bits_stored": 12}, "store 8 to 8 bits"),
        ({"modality": "XC", "signed": True}, "never signed"),
        ({"modality": "CT", "bits_stored": 12}, "rescale"),
        ({"modality": "XC", "photometric": "RGB", "window": (1.0, 2.0)}, "window"),
        ({"modality": "MR", "window": (1.0, 0.5)}, "at least 1"),
    ],
)
def test_a_style_that_its_object_class_forbids_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ScannerStyle("OT"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("style", "pixels", "message"),
    [
        (ScannerStyle("MR", bits_stored=12), np.full((4, 4), 4096, np.uint16), "12 bits"),
        (ScannerStyle("CR"), np.zeros((4, 4), np.int16), "signed"),
        (ScannerStyle("XC"), np.zeros((4, 4, 3), np.uint8), "MONOCHROME2"),
        (ScannerStyle("CR", transfer_syntax="jpeg-2000"), np.zeros((31, 64), np.uint8), "32 rows"),
    ],
)
def test_pixels_that_would_not_survive_are_refused(
    style: ScannerStyle, pixels: NDArray[np.uint8], message: str
) -> None:
    writer = DicomWriter(institution="north", uid_seed="", synthetic=False)
    with pytest.raises(ValueError, match=message):
        writer.encode(ImageRecord(pixels, "p", "l"), style, number=1)
