"""A name planted in every text of a file, of a path and of a key comes out nowhere."""

import logging
import traceback
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_factory import uid_of, write_dicom
from metaward import cli
from metaward_client.dicom.header_index import DATABASE
from metaward_client.dicom.pixels import decode_image
from metaward_client.dicom.refusals import RefusedImage
from metaward_client.dicom.silence import quiet_pydicom
from metaward_client.site import load_site

PLANTED = "PLANTED"
KEYWORDS = [
    "AccessionNumber", "AdditionalPatientHistory", "BodyPartExamined", "ContentDate",
    "DeviceSerialNumber", "ImageComments", "ImageType", "InstanceNumber", "InstitutionAddress",
    "InstitutionName", "IssuerOfPatientID", "KVP", "LossyImageCompression", "Modality",
    "OperatorsName", "OtherPatientIDs", "PatientAddress", "PatientAge", "PatientBirthDate",
    "PatientComments", "PatientID", "PatientName", "PatientSex", "PixelSpacing", "ProtocolName",
    "ReferringPhysicianName", "RescaleIntercept", "RescaleSlope", "SeriesDescription",
    "SliceThickness", "SpecificCharacterSet", "StationName", "StudyDate", "StudyDescription",
    "StudyTime", "VOILUTFunction", "WindowCenter", "WindowCenterWidthExplanation", "WindowWidth",
]  # fmt: skip


def _plant(path: Path, *keywords: str, syntax: str = "explicit") -> Path:
    """Write a file whose named elements hold the planted name, whatever they should hold."""
    write_dicom(path=path, transfer_syntax=syntax, patient_id=f"{PLANTED}{path.name}")
    dataset = dcmread(path)
    value = f"{PLANTED} ".encode()
    for keyword in keywords:
        tag, vr = Tag(keyword), dictionary_VR(keyword)
        dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    private = dataset.private_block(0x0011, PLANTED, create=True)
    private.add_new(1, "LO", PLANTED)
    item = Dataset()
    item.CodeMeaning = PLANTED
    dataset.ConceptNameCodeSequence = [item]
    with quiet_pydicom():
        dataset.save_as(path)
    assert path.read_bytes().count(PLANTED.encode()) >= len(keywords)
    return path


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Files that are fine, damaged, without pixels and misnamed, all full of the planted name."""
    root = tmp_path / "north"
    harmless = [k for k in KEYWORDS if k not in ("RescaleSlope", "RescaleIntercept")]
    harmless = [k for k in harmless if not k.startswith("Window") and k != "SpecificCharacterSet"]
    for i in range(4):
        _plant(root / PLANTED / f"good{i}", *harmless)
    _plant(root / "bad-number", *KEYWORDS)
    _plant(root / "bad-character-set", "SpecificCharacterSet", "PatientName")
    damaged = _plant(root / "damaged", *harmless, syntax="rle")
    damaged.write_bytes(damaged.read_bytes()[:-300] + PLANTED.encode() * 40)
    cut = _plant(root / "cut", *harmless)
    cut.write_bytes(cut.read_bytes()[:700])
    (root / f"{PLANTED}.txt").write_text(PLANTED)
    names = [*(f"good{i}" for i in range(4)), "bad-number", "bad-character-set", "damaged"]
    rows = [f"{uid_of(name)},{'ab'[i % 2]}" for i, name in enumerate(names)]
    table = "\n".join(["sop_instance_uid,label", *rows, f"{PLANTED},a", f"{uid_of('good0')},b"])
    (root / "labels.csv").write_text(table)
    return root


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_no_output_of_a_scan_holds_it(
    hospital: Path,
    arguments: list[str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = EntryPoint("site", "metaward_client.site_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cli.run(["site", "scan", str(hospital), *arguments]) == 0
    captured = capfd.readouterr()
    assert "ambiguous_label" in captured.out
    assert "rows 2, 10" in captured.out or '"rows": [\n          2,\n          10' in captured.out
    for text in (captured.out, captured.err, caplog.text, *(str(w.message) for w in caught)):
        assert PLANTED not in text
        assert "2.25." not in text  # no UID either


def test_the_cache_holds_it_in_the_index_only(hospital: Path, tmp_path: Path) -> None:
    site = load_site(hospital)
    site.decode(site.scan())
    holders = {
        path.name
        for path in (tmp_path / "xdg-cache").rglob("*")
        if path.is_file() and PLANTED.encode() in path.read_bytes()
    }
    assert holders == {DATABASE}


def _refusal(path: Path) -> RefusedImage | None:
    try:
        decode_image(path, size=16, channels=1)
    except RefusedImage as refused:
        return refused
    return None


def test_no_exception_holds_it(hospital: Path) -> None:
    refusals = [_refusal(path) for path in hospital.rglob("*") if path.is_file()]
    raised = [refused for refused in refusals if refused is not None]
    assert len(raised) >= 4
    for refused in raised:
        # Only the exception itself: the paths of source files in a traceback are ours.
        assert PLANTED not in "".join(traceback.format_exception_only(refused))
        assert refused.__context__ is None
        assert refused.__cause__ is None


def test_scans_hold_no_identifier_but_in_the_place_of_a_file(hospital: Path) -> None:
    scan = load_site(hospital).scan()
    shown = repr([(i.label, i.patient, i.transfer_syntax) for i in scan.images])
    assert PLANTED not in shown + repr(scan.join) + repr(scan.label_names) + repr(scan.refused)
    assert {image.patient for image in scan.images} == set(range(scan.n_patients))
