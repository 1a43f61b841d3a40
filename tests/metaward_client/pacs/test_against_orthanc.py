"""The promises of a fetch, kept with a real PACS."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydicom import dcmread
from pydicom.filereader import _read_file_meta_info  # a file without its meta information

from dicom_factory import TRANSFER_SYNTAXES, uid_of, write_dicom
from metaward.errors import ConfigError
from metaward_client.dicom.walk import FoundFile
from metaward_client.pacs.fetch import FetchReport
from metaward_client.pacs.landing import fetched_folder, file_name, incoming_folder
from metaward_client.pacs.site_fetch import fetch_site
from metaward_client.site import load_site
from metaward_client.site_config import read_site_config
from metaward_client.site_scan import SiteScan
from orthanc_server import AE_TITLE, PASSWORD, USER, Orthanc, running_orthanc

PROTOCOLS = ["dicomweb", "dimse"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write five studies of five patients, in all encodings, and one of another modality."""
    folder = tmp_path_factory.mktemp("exported")
    paths = []
    for number, syntax in enumerate(TRANSFER_SYNTAXES):
        kind = np.uint8 if syntax == "jpeg_baseline" else np.uint16
        paths.append(
            write_dicom(
                path=folder / f"i{number}",
                pixels=np.arange(64 * 64, dtype=kind).reshape(64, 64),
                transfer_syntax=syntax,
                patient_id=f"p{number % 4}",
                study=f"study{number % 4}",
                series=f"series{number}",
                elements={"StudyDate": f"2024010{1 + number % 4}"},
            )
        )
    other = {"patient_id": "p4", "study": "study4", "series": "other", "modality": "CR"}
    paths.append(write_dicom(path=folder / "other", elements={"StudyDate": "20240105"}, **other))
    return paths


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, exported: list[Path]) -> Iterator[Orthanc]:
    """Run an Orthanc with those files; tests change nothing in it."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        orthanc.store(*exported)
        yield orthanc


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Orthanc]:
    """Run an Orthanc of the test's own."""
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        yield orthanc


def make_site(
    folder: Path,
    orthanc: Orthanc,
    *,
    protocol: str = "dicomweb",
    key: str = "study_instance_uid",
    rows: dict[str, str] | None = None,
    **pacs: Any,
) -> Path:
    """Write a site.yaml with a label table; by default of all studies."""
    folder.mkdir(parents=True, exist_ok=True)
    if rows is None:
        rows = {uid_of(f"study{number}"): "ab"[number % 2] for number in range(5)}
    table = [f"{key},label", *(f"{name},{label}" for name, label in rows.items())]
    (folder / "labels.csv").write_text("\n".join(table))
    secret = folder / "credentials"
    secret.write_text(f"user: {USER}\npassword: {PASSWORD}\n")
    secret.chmod(0o600)
    section: dict[str, Any] = {"protocol": protocol, "requests_per_second": 1000.0, **pacs}
    if protocol == "dicomweb":
        section = {"url": orthanc.dicomweb, "credentials": "credentials", **section}
    else:
        ours = {"host": "127.0.0.1", "port": orthanc.dicom_port, "called_ae_title": AE_TITLE}
        section = {**ours, **section}
    data = {"root": "images", "labels": "labels.csv", "key": key, "pacs": section}
    content = {"name": "north", "data": data, "cache": str(folder / "cache")}
    (folder / "site.yaml").write_text(yaml.safe_dump(content))
    return folder / "site.yaml"


def fetch(site: Path) -> FetchReport:
    return fetch_site(read_site_config(site, needs_root=False))


def fetched(site: Path) -> dict[str, bytes]:
    folder = fetched_folder(site.parent / "images")
    return {path.name: path.read_bytes() for path in folder.glob("??/*.dcm")}


def stored(paths: list[Path]) -> dict[str, bytes]:
    return {file_name(str(dcmread(path).SOPInstanceUID)): path.read_bytes() for path in paths}


def body(content: bytes) -> tuple[str, bytes]:
    """Return transfer syntax and data set of a file, without what names who wrote the file."""
    stream = BytesIO(content)
    stream.seek(132)
    meta = _read_file_meta_info(stream)
    return meta.TransferSyntaxUID, stream.read()


@dataclass(frozen=True)
class OneFetch:
    """A fetch of everything, over one protocol, and what it did to the PACS."""

    site: Path
    report: FetchReport
    before: tuple[object, object]
    after: tuple[object, object]


@pytest.fixture(scope="module", params=PROTOCOLS)
def one_fetch(
    request: pytest.FixtureRequest, filled: Orthanc, tmp_path_factory: pytest.TempPathFactory
) -> OneFetch:
    site = make_site(tmp_path_factory.mktemp("site"), filled, protocol=request.param)
    before = filled.state()
    report = fetch(site)
    return OneFetch(site, report, before, filled.state())


def test_everything_that_is_wanted_arrives_as_the_pacs_has_it(
    one_fetch: OneFetch, exported: list[Path]
) -> None:
    report, got, expected = one_fetch.report, fetched(one_fetch.site), stored(exported)
    assert (report.n_studies, report.n_wanted, report.n_fetched) == (5, 9, 9)
    assert (report.failed, report.unlisted, report.n_keys_without_instance) == ({}, {}, 0)
    assert {name: body(file) for name, file in got.items()} == {
        name: body(file) for name, file in expected.items()
    }


def test_over_dicomweb_files_are_the_same_byte_for_byte(
    filled: Orthanc, exported: list[Path], tmp_path: Path
) -> None:
    site = make_site(tmp_path, filled)
    fetch(site)
    assert fetched(site) == stored(exported)


def test_a_fetch_changes_nothing_in_the_pacs(one_fetch: OneFetch) -> None:
    assert one_fetch.after == one_fetch.before


def test_the_scan_finds_what_it_finds_in_a_folder(
    one_fetch: OneFetch, filled: Orthanc, exported: list[Path], tmp_path: Path
) -> None:
    (incoming_folder(one_fetch.site.parent / "images") / "x.part").write_bytes(b"no image")
    folder = make_site(tmp_path, filled)
    (tmp_path / "images").mkdir()
    for path in exported:
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())

    def found(site: Path) -> SiteScan:
        scan = load_site(site).scan()
        same = FoundFile("", 0, 0)  # names, sizes and times differ
        images = tuple(replace(image, file=same) for image in scan.images)
        return replace(scan, images=images, n_headers_read=0, n_headers_known=0)

    assert len(found(folder).images) == 9
    assert found(one_fetch.site) == found(folder)


def test_a_second_fetch_asks_for_no_image(one_fetch: OneFetch) -> None:
    folder = fetched_folder(one_fetch.site.parent / "images")
    files = {path: path.stat().st_mtime_ns for path in folder.glob("??/*")}
    second = fetch(one_fetch.site)
    assert (second.n_there, second.n_fetched, second.n_bytes) == (9, 0, 0)
    assert one_fetch.report.n_requests - second.n_requests >= 9
    assert files == {path: path.stat().st_mtime_ns for path in folder.glob("??/*")}


def test_a_new_study_is_fetched_alone(empty: Orthanc, exported: list[Path], tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", empty)
    empty.store(*exported[:-1])
    assert fetch(site).n_fetched == 8
    empty.store(exported[-1])
    report = fetch(site)
    assert (report.n_there, report.n_fetched) == (8, 1)
    assert fetched(site) == stored(exported)


STUDIES = {"rows": {uid_of("study1"): "a", "1.2.3": "b"}}
PATIENTS = {"key": "patient_id", "rows": {"p2": "a", "P*": "b"}}
MODALITY = {"select": {"modalities": ["CR"]}}
DAYS = {"select": {"since": "2024-01-03", "until": "2024-01-04"}}
UNLABELLED = {"rows": {"1.2.3": "a"}, "select": {"labelled": False, "modalities": ["CR"]}}


@pytest.mark.parametrize(
    ("protocol", "options", "names"),
    [
        ("dicomweb", STUDIES, {"i1", "i5"}),
        ("dicomweb", PATIENTS, {"i2", "i6"}),
        ("dicomweb", {"key": "sop_instance_uid", "rows": {uid_of("i3"): "a"}}, {"i3"}),
        ("dicomweb", {"key": "series_instance_uid", "rows": {uid_of("series0"): "a"}}, {"i0"}),
        ("dicomweb", MODALITY, {"other"}),
        ("dicomweb", DAYS, {"i2", "i3", "i6", "i7"}),
        ("dicomweb", UNLABELLED, {"other"}),
        ("dicomweb", {"select": {"studies": [uid_of("study0")]}}, {"i0", "i4"}),
        ("dimse", STUDIES, {"i1", "i5"}),
        ("dimse", PATIENTS, {"i2", "i6"}),
        ("dimse", UNLABELLED, {"other"}),
    ],
)
def test_what_is_not_wanted_is_not_fetched(
    filled: Orthanc, tmp_path: Path, protocol: str, options: dict[str, Any], names: set[str]
) -> None:
    site = make_site(tmp_path, filled, protocol=protocol, **options)
    fetch(site)
    assert fetched(site).keys() == {file_name(uid_of(name)) for name in names}


def test_keys_without_an_image_and_files_not_wanted_any_more_are_counted(
    filled: Orthanc, tmp_path: Path
) -> None:
    fetch(make_site(tmp_path, filled))
    report = fetch(make_site(tmp_path, filled, rows={uid_of("study1"): "a", "1.2.3": "b"}))
    assert report.n_keys_without_instance == 1
    assert report.n_not_wanted == 7


def test_a_killed_fetch_goes_on_and_loses_and_doubles_nothing(
    filled: Orthanc, exported: list[Path], tmp_path: Path
) -> None:
    site = make_site(tmp_path, filled, requests_per_second=8.0)
    command = [sys.executable, "-c", "from metaward.cli import main; main()"]
    child = subprocess.Popen([*command, "site", "fetch", str(site)], stderr=subprocess.DEVNULL)
    try:
        while len(fetched(site)) < 3:
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(20)
    # What a fetch that is killed while it writes leaves behind:
    leftover = incoming_folder(tmp_path / "images") / f"{file_name(uid_of('i7'))}.part"
    leftover.write_bytes(b"half")
    before = fetched(site)
    assert 3 <= len(before) < 9
    assert before.items() <= stored(exported).items()
    report = fetch(make_site(tmp_path, filled))
    assert (report.n_there, report.n_fetched) == (len(before), 9 - len(before))
    assert fetched(site) == stored(exported)
    assert not leftover.exists()


def test_a_wrong_password_is_one_sentence(filled: Orthanc, tmp_path: Path) -> None:
    site = make_site(tmp_path, filled)
    (tmp_path / "credentials").write_text("user: metaward\npassword: wrong\n")
    with pytest.raises(ConfigError, match="does not accept the credentials"):
        fetch(site)


@pytest.mark.parametrize(
    "wrong", [{"called_ae_title": "SOMEBODY"}, {"calling_ae_title": "STRANGER"}], ids=str
)
def test_an_ae_title_that_the_pacs_does_not_know_is_one_sentence(
    filled: Orthanc, tmp_path: Path, wrong: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="refuses the connection"):
        fetch(make_site(tmp_path, filled, protocol="dimse", **wrong))


def test_the_command_says_what_it_did(
    filled: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from metaward import cli

    site = make_site(tmp_path, filled)
    assert cli.run(["site", "fetch", str(site)]) == 0
    captured = capsys.readouterr()
    assert "9 images of 5 studies are wanted: 0 were there, 9 fetched now" in captured.out
    assert "not encrypted" in captured.out
    assert cli.run(["site", "fetch", str(site), "--json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert captured.err == ""
    assert (said["already_there"], said["fetched"], said["not_fetched"]) == (9, 0, [])


def test_files_are_for_their_owner_alone(filled: Orthanc, tmp_path: Path) -> None:
    site = make_site(tmp_path, filled)
    before = os.umask(0)
    try:
        fetch(site)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o077 for path in fetched_folder(tmp_path / "images").rglob("*")}
    assert modes == {0}
