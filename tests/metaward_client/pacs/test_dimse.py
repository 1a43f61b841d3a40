"""DIMSE answers of a PACS that misbehaves; test_against_orthanc.py has one that behaves."""

import logging
import traceback
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, MRImageStorage
from pynetdicom.dsutils import encode

from dicom_factory import uid_of, write_dicom
from faulty_pacs import FakeClock
from metaward import cli
from metaward.errors import DataError, MetawardError
from metaward_client.dicom.silence import quiet_pydicom
from metaward_client.pacs import dimse
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.site_fetch import fetch_site
from metaward_client.site_config import read_site_config
from scripted_pacs import PLANTED, STUDY, ScriptedPacs, fetch, row, site_at

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("sockets_are_collected"),
]


def test_an_image_comes_over_the_connection_that_asked_for_it(
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    report = fetch(tmp_path, dimse_pacs.port)
    assert report.n_fetched == 1
    assert dimse_pacs.gets == [uid_of("a")]


def test_every_request_waits_for_its_turn(dimse_pacs: ScriptedPacs, tmp_path: Path) -> None:
    time = FakeClock()
    config = read_site_config(
        site_at(tmp_path, dimse_pacs.port, requests_per_second=0.5), needs_root=False
    )
    report = fetch_site(config, clock=time.clock())
    # Connect, studies, series, images; connect anew to offer the object class, get.
    assert report.n_requests == 6
    assert time.time == 5 * 2


@pytest.mark.parametrize(
    ("got", "failure"),
    [
        ([0], Failure.GONE),
        ([1, (0xA702, None)], Failure.PACS_ERROR),
        ([1, (0xC123, row(ErrorComment=PLANTED))], Failure.PACS_ERROR),
        ([1, (0xFE00, None)], Failure.PACS_ERROR),
    ],
    ids=["nothing", "refused", "error", "cancelled"],
)
def test_an_image_with_a_wrong_answer_is_counted_under_its_reason(
    dimse_pacs: ScriptedPacs, tmp_path: Path, got: list[Any], failure: Failure
) -> None:
    dimse_pacs.got = got
    assert fetch(tmp_path, dimse_pacs.port).failed == {failure: 1}


def test_another_image_than_the_one_asked_for_is_not_taken(
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    other = dcmread(write_dicom(path=tmp_path / "made" / "b", study="study"))
    dimse_pacs.got = [1, (0xFF00, other)]
    report = fetch(tmp_path, dimse_pacs.port)
    assert report.failed == {Failure.PACS_ERROR: 1}


def test_a_kind_of_object_that_the_pacs_does_not_send_is_counted(
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    dimse_pacs.found["IMAGE"][0][1].SOPClassUID = "1.2.3.4.5"  # type: ignore[union-attr]
    assert fetch(tmp_path, dimse_pacs.port).failed == {Failure.NOT_OFFERED: 1}


def test_where_the_pacs_names_no_class_the_common_ones_are_offered(
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    del dimse_pacs.found["IMAGE"][0][1].SOPClassUID  # type: ignore[union-attr]
    assert fetch(tmp_path, dimse_pacs.port).n_fetched == 1


def test_a_search_that_fails_is_counted(dimse_pacs: ScriptedPacs, tmp_path: Path) -> None:
    dimse_pacs.found["SERIES"] = [(0xC001, row(ErrorComment=PLANTED))]
    assert fetch(tmp_path, dimse_pacs.port).unlisted == {Failure.PACS_ERROR: 1}


def of_study(number: int) -> dict[str, str]:
    return {
        "StudyInstanceUID": uid_of(f"study {number}"),
        "SeriesInstanceUID": uid_of(f"series {number}"),
    }


def test_an_answer_that_cannot_be_read_costs_its_own_study_only(
    dimse_pacs: ScriptedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(dataset: Dataset, *args: Any) -> bytes | None:
        if "PatientComments" in dataset:  # ends within the header of an element
            return b"\x08\x00\x15\x11\xff\xff\xff\xff\x01\x00\x02\x00\x04\x00\x00\x00abcd"
        return encode(dataset, *args)

    def search(level: str, study: str) -> list[tuple[int, Dataset | None]]:
        number = next(i for i in range(4) if of_study(i)["StudyInstanceUID"] == study)
        match level:
            case "STUDY":
                return [(0xFF00, row(StudyInstanceUID=study, PatientID=PLANTED))]
            case "SERIES":
                broken = [(0xFF00, row(PatientComments=PLANTED))] if number == 1 else []
                return [*broken, (0xFF00, row(**of_study(number), Modality="MR"))]
        image = {"SOPInstanceUID": uid_of(f"image {number}"), "SOPClassUID": MRImageStorage}
        return [(0xFF00, row(**of_study(number), **image))]

    monkeypatch.setattr("pynetdicom.service_class.encode", encoded)
    dimse_pacs.search = search
    site = site_at(tmp_path, dimse_pacs.port)
    table = "".join(f"{of_study(i)['StudyInstanceUID']},a\n" for i in range(4))
    (tmp_path / "labels.csv").write_text("study_instance_uid,label\n" + table)
    dimse_pacs.got = [0]
    report = fetch_site(read_site_config(site, needs_root=False), clock=FakeClock().clock())
    assert report.unlisted == {Failure.NOT_UNDERSTOOD: 1}
    assert dimse_pacs.gets == [uid_of(f"image {i}") for i in (0, 2, 3)]


@pytest.mark.parametrize("sop_class", ["1." * 40, "MR Image Storage"], ids=["long", "words"])
def test_a_senseless_class_of_one_image_costs_that_image_only(
    dimse_pacs: ScriptedPacs, tmp_path: Path, sop_class: str
) -> None:
    sound = dimse_pacs.found["IMAGE"][0][1]
    assert sound is not None
    with quiet_pydicom():
        senseless = row(
            StudyInstanceUID=STUDY, SOPInstanceUID=uid_of("b"), SOPClassUID=UID(sop_class)
        )
    dimse_pacs.found["IMAGE"] = [(0xFF00, senseless), (0xFF00, sound)]
    report = fetch(tmp_path, dimse_pacs.port)
    assert (report.failed, report.n_fetched) == ({Failure.SENSELESS_UID: 1}, 1)


@pytest.mark.parametrize(
    ("n_studies", "n_series", "n_images"),
    [(5, 1, 1), (1, 5, 1), (1, 1, 5), (1, 2, 2)],
    ids=["studies", "series", "images", "series with images"],
)
def test_a_listing_that_is_too_long_is_given_up(
    dimse_pacs: ScriptedPacs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_studies: int,
    n_series: int,
    n_images: int,
) -> None:
    monkeypatch.setattr(dimse, "LONGEST_LISTING", 3)
    dimse_pacs.found["STUDY"] *= n_studies
    dimse_pacs.found["SERIES"] *= n_series
    dimse_pacs.found["IMAGE"] *= n_images
    report = fetch(tmp_path, dimse_pacs.port)
    assert report.unlisted == {Failure.LISTING_TOO_LONG: 1}
    assert dimse_pacs.gets == []


def test_a_pacs_without_resources_is_asked_again(dimse_pacs: ScriptedPacs, tmp_path: Path) -> None:
    dimse_pacs.found["STUDY"] = [(0xA700, None)]
    time = FakeClock()
    with pytest.raises(DataError, match=r"stayed away.*busy"):
        fetch(tmp_path, dimse_pacs.port, time)
    assert sum(time.slept) == pytest.approx(15, abs=0.1)


def test_days_that_end_before_they_begin_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = {"since": "2025-01-01", "until": "2024-01-01"}
    assert cli.run(["site", "fetch", str(site_at(tmp_path, 104, select=days))]) == 2
    said = capsys.readouterr().err
    assert "data.pacs.select" in said
    assert "`since` is after `until`" in said


@pytest.mark.parametrize("spoilt", ["nothing", "PatientID", "error", "uid", "image"])
def test_nothing_of_the_data_or_of_an_answer_comes_out(
    dimse_pacs: ScriptedPacs,
    tmp_path: Path,
    spoilt: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    study, _, image = (dimse_pacs.found[level][0][1] for level in ("STUDY", "SERIES", "IMAGE"))
    assert study is not None and image is not None  # noqa: PT018 (for mypy)
    match spoilt:
        case "PatientID":
            study.SpecificCharacterSet = PLANTED
        case "error":
            dimse_pacs.got = [1, (0xC123, row(ErrorComment=PLANTED, OffendingElement=0x00100010))]
        case "uid":
            with quiet_pydicom():
                image.SOPInstanceUID = PLANTED
        case "image":
            buffer = BytesIO(PLANTED.encode())
            dimse_pacs.got = [1, (0xFF00, dcmread(buffer, force=True))]
    site = site_at(tmp_path, dimse_pacs.port)
    before = caplog.text  # what the scripted PACS itself logs is not ours
    codes = {cli.run(["site", "fetch", str(site), *more]) for more in ([], ["--json"])}
    assert codes <= {0, 3}
    text = "".join(capfd.readouterr()) + caplog.text.removeprefix(before)
    try:
        fetch_site(read_site_config(site, needs_root=False), clock=FakeClock().clock())
    except MetawardError as error:
        text += "".join(traceback.format_exception(error)) + repr(error.__context__)
    for secret in (PLANTED, STUDY, uid_of("series"), uid_of("a")):
        assert secret not in text
