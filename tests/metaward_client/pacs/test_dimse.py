"""DIMSE against a PACS that misbehaves; test_against_orthanc.py has one that behaves."""

import gc
import logging
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from dicom_factory import uid_of, write_dicom
from faulty_pacs import FakeClock
from metaward import cli
from metaward.errors import ConfigError, DataError, MetawardError
from metaward_client.dicom.silence import quiet_pydicom, quiet_threads
from metaward_client.pacs import dimse
from metaward_client.pacs.dimse_connection import (
    CLASSES_AT_ONCE,
    COMMON_CLASSES,
    FIND,
    GET,
    SYNTAXES,
)
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.fetch import FetchReport
from metaward_client.pacs.site_fetch import fetch_site
from metaward_client.site_config import read_site_config

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom leaves the socket of a connection that fails to the garbage collector."""

PLANTED = "PLANTED"
STUDY = uid_of("study")


@dataclass
class ScriptedPacs:
    """Answers C-FIND with `found` and C-GET with `got`.

    Attributes:
        found: Level -> (status, identifier) of each answer.
        got: What C-GET gives, as pynetdicom wants it from whoever serves: numbers, then statuses
            with data sets.
        aborts: Whether C-GET ends with the end of the connection.
        spoils: Does something to the connection before C-GET gives an image.
        search: Answers C-FIND instead of `found`; takes a level and a Study Instance UID.
    """

    port: int
    found: dict[str, list[tuple[int, Dataset | None]]]
    got: list[Any]
    aborts: bool = False
    spoils: Callable[[evt.Event], None] | None = None
    search: Callable[[str, str], list[tuple[int, Dataset | None]]] | None = None
    n_connections: int = 0
    gets: list[str] = field(default_factory=list)
    server: Any = None  # of pynetdicom, for what it offers


def row(**keys: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture(autouse=True)
def _sockets_are_collected_here() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[ScriptedPacs]:
    image = dcmread(write_dicom(path=tmp_path / "made" / "a", study="study"))
    below = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": uid_of("series")}
    kind = {"SOPInstanceUID": uid_of("a"), "SOPClassUID": MRImageStorage}
    scripted = ScriptedPacs(
        0,
        {
            "STUDY": [(0xFF00, row(StudyInstanceUID=STUDY, PatientID=PLANTED))],
            "SERIES": [(0xFF00, row(**below, Modality="MR"))],
            "IMAGE": [(0xFF00, row(**below, **kind))],
        },
        [1, (0xFF00, image)],
    )

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level, study = event.identifier.QueryRetrieveLevel, event.identifier.StudyInstanceUID
        yield from scripted.search(level, study) if scripted.search else scripted.found[level]

    def get(event: evt.Event) -> Iterator[Any]:
        scripted.gets.append(str(event.identifier.SOPInstanceUID))
        if scripted.aborts:
            event.assoc.dul.socket.close()
            return
        if scripted.spoils:
            scripted.spoils(event)
        yield from scripted.got

    def connected(_: evt.Event) -> None:
        scripted.n_connections += 1

    entity = AE(ae_title="SCRIPTED")
    entity.add_supported_context(MRImageStorage, scp_role=True, scu_role=False)
    entity.add_supported_context(FIND)
    entity.add_supported_context(GET)
    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get), (evt.EVT_ACCEPTED, connected)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    scripted.server = server
    scripted.port = server.socket.getsockname()[1]
    yield scripted
    server.shutdown()


def site_at(folder: Path, port: int, **pacs: object) -> Path:
    (folder / "labels.csv").write_text(f"study_instance_uid,label\n{STUDY},a")
    section = {"protocol": "dimse", "host": "127.0.0.1", "port": port, "timeout_seconds": 2.0}
    section |= {"called_ae_title": "SCRIPTED", "requests_per_second": 1000.0, **pacs}
    data = {"root": "images", "labels": "labels.csv", "key": "study_instance_uid", "pacs": section}
    (folder / "site.yaml").write_text(yaml.safe_dump({"name": "north", "data": data}))
    return folder / "site.yaml"


def fetch(folder: Path, port: int, time: FakeClock | None = None, **pacs: object) -> FetchReport:
    config = read_site_config(site_at(folder, port, **pacs), needs_root=False)
    return fetch_site(config, clock=(time or FakeClock()).clock())


def test_an_image_comes_over_the_connection_that_asked_for_it(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    report = fetch(tmp_path, pacs.port)
    assert report.n_fetched == 1
    assert pacs.gets == [uid_of("a")]


def test_every_request_waits_for_its_turn(pacs: ScriptedPacs, tmp_path: Path) -> None:
    time = FakeClock()
    config = read_site_config(
        site_at(tmp_path, pacs.port, requests_per_second=0.5), needs_root=False
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
    pacs: ScriptedPacs, tmp_path: Path, got: list[Any], failure: Failure
) -> None:
    pacs.got = got
    assert fetch(tmp_path, pacs.port).failed == {failure: 1}


def test_another_image_than_the_one_asked_for_is_not_taken(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    other = dcmread(write_dicom(path=tmp_path / "made" / "b", study="study"))
    pacs.got = [1, (0xFF00, other)]
    report = fetch(tmp_path, pacs.port)
    assert report.failed == {Failure.PACS_ERROR: 1}


def test_a_connection_that_ends_is_made_again_and_then_counted(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    pacs.aborts = True
    report = fetch(tmp_path, pacs.port)
    assert report.failed == {Failure.INCOMPLETE: 1}
    assert 2 <= len(pacs.gets) <= 5


def test_a_connection_that_the_pacs_ends_while_it_is_idle_is_made_again(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    class Idle(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) in (1, 4):
                for theirs in pacs.server.active_associations:
                    theirs.abort()
                for thread in threading.enumerate():
                    if isinstance(thread, Association) and thread.is_requestor:
                        thread.join(10)

    report = fetch(tmp_path, pacs.port, Idle(), requests_per_second=1.0)
    assert (report.n_fetched, report.failed, report.unlisted) == (1, {}, {})
    assert pacs.n_connections == 2 + 2


def test_a_pacs_that_falls_silent_in_the_middle_of_a_packet_is_asked_again(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    over, waited_in_vain = threading.Event(), []

    def fall_silent(event: evt.Event) -> None:
        pacs.spoils = None
        event.assoc.dul.socket.send(b"\x04\x00\x00\x00\x01\x00half of 256 bytes")
        waited_in_vain.append(not over.wait(15))

    pacs.spoils = fall_silent
    report = fetch(tmp_path, pacs.port, timeout_seconds=1.0)
    over.set()
    assert (report.n_fetched, waited_in_vain) == (1, [])


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_who_interrupts_a_fetch_does_not_wait_for_a_pacs_that_is_busy_with_a_request(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    over, waited_in_vain = threading.Event(), []

    def be_busy(_: evt.Event) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        waited_in_vain.append(not over.wait(15))

    pacs.spoils = be_busy
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, pacs.port, timeout_seconds=60.0)
    over.set()
    assert waited_in_vain == []


def test_a_packet_that_makes_no_sense_ends_no_thread_on_the_screen(
    pacs: ScriptedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(str(args.exc_value)))
    before = threading.excepthook

    def send_a_command_without_command(event: evt.Event) -> None:
        pacs.spoils = None
        command = bytes.fromhex("0103") + b"\x00\x00\x02\x09\x08\x00\x00\x00" + PLANTED.encode()
        item = len(command).to_bytes(4, "big") + command
        event.assoc.dul.socket.send(b"\x04\x00" + len(item).to_bytes(4, "big") + item)

    pacs.spoils = send_a_command_without_command
    assert fetch(tmp_path, pacs.port).n_fetched == 1
    assert shown == []
    assert threading.excepthook is before


def test_a_thread_of_somebody_else_that_ends_in_an_exception_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args.exc_type))
    with quiet_threads(of="pynetdicom"):
        thread = threading.Thread(target=lambda: int("x"))
        thread.start()
        thread.join()
    assert shown == [ValueError]


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ([GET], "offers us no C-GET there"),
        ([FIND], "offers us no C-FIND there"),
        ([FIND, GET], "offers us no C-FIND and no C-GET there"),
    ],
    ids=["C-GET", "C-FIND", "both"],
)
def test_a_pacs_that_lacks_a_service_is_one_sentence_about_the_setting(
    pacs: ScriptedPacs, tmp_path: Path, lacking: list[str], message: str
) -> None:
    for kind in lacking:
        pacs.server.contexts = [c for c in pacs.server.contexts if c.abstract_syntax != kind]
    with pytest.raises(ConfigError, match=message):
        fetch(tmp_path, pacs.port)


def test_a_kind_of_object_that_the_pacs_does_not_send_is_counted(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    pacs.found["IMAGE"][0][1].SOPClassUID = "1.2.3.4.5"  # type: ignore[union-attr]
    assert fetch(tmp_path, pacs.port).failed == {Failure.NOT_OFFERED: 1}


def test_where_the_pacs_names_no_class_the_common_ones_are_offered(
    pacs: ScriptedPacs, tmp_path: Path
) -> None:
    del pacs.found["IMAGE"][0][1].SOPClassUID  # type: ignore[union-attr]
    assert fetch(tmp_path, pacs.port).n_fetched == 1


def test_a_search_that_fails_is_counted(pacs: ScriptedPacs, tmp_path: Path) -> None:
    pacs.found["SERIES"] = [(0xC001, row(ErrorComment=PLANTED))]
    assert fetch(tmp_path, pacs.port).unlisted == {Failure.PACS_ERROR: 1}


def of_study(number: int) -> dict[str, str]:
    return {
        "StudyInstanceUID": uid_of(f"study {number}"),
        "SeriesInstanceUID": uid_of(f"series {number}"),
    }


def test_an_answer_that_cannot_be_read_costs_its_own_study_only(
    pacs: ScriptedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    pacs.search = search
    site = site_at(tmp_path, pacs.port)
    table = "".join(f"{of_study(i)['StudyInstanceUID']},a\n" for i in range(4))
    (tmp_path / "labels.csv").write_text("study_instance_uid,label\n" + table)
    pacs.got = [0]
    report = fetch_site(read_site_config(site, needs_root=False), clock=FakeClock().clock())
    assert report.unlisted == {Failure.NOT_UNDERSTOOD: 1}
    assert pacs.gets == [uid_of(f"image {i}") for i in (0, 2, 3)]


@pytest.mark.parametrize("sop_class", ["1." * 40, "MR Image Storage"], ids=["long", "words"])
def test_a_senseless_class_of_one_image_costs_that_image_only(
    pacs: ScriptedPacs, tmp_path: Path, sop_class: str
) -> None:
    sound = pacs.found["IMAGE"][0][1]
    assert sound is not None
    with quiet_pydicom():
        senseless = row(
            StudyInstanceUID=STUDY, SOPInstanceUID=uid_of("b"), SOPClassUID=UID(sop_class)
        )
    pacs.found["IMAGE"] = [(0xFF00, senseless), (0xFF00, sound)]
    report = fetch(tmp_path, pacs.port)
    assert (report.failed, report.n_fetched) == ({Failure.SENSELESS_UID: 1}, 1)


@pytest.mark.parametrize(
    ("n_studies", "n_series", "n_images"),
    [(5, 1, 1), (1, 5, 1), (1, 1, 5), (1, 2, 2)],
    ids=["studies", "series", "images", "series with images"],
)
def test_a_listing_that_is_too_long_is_given_up(
    pacs: ScriptedPacs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_studies: int,
    n_series: int,
    n_images: int,
) -> None:
    monkeypatch.setattr(dimse, "LONGEST_LISTING", 3)
    pacs.found["STUDY"] *= n_studies
    pacs.found["SERIES"] *= n_series
    pacs.found["IMAGE"] *= n_images
    report = fetch(tmp_path, pacs.port)
    assert report.unlisted == {Failure.LISTING_TOO_LONG: 1}
    assert pacs.gets == []


def test_a_pacs_without_resources_is_asked_again(pacs: ScriptedPacs, tmp_path: Path) -> None:
    pacs.found["STUDY"] = [(0xA700, None)]
    time = FakeClock()
    with pytest.raises(DataError, match=r"stayed away.*busy"):
        fetch(tmp_path, pacs.port, time)
    assert sum(time.slept) == pytest.approx(15, abs=0.1)


def test_nobody_at_the_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DataError, match=r"stayed away.*no_answer"):
        fetch(tmp_path, port)


def unresolved(code: int) -> Callable[..., None]:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "no address")

    return getaddrinfo


def test_a_host_that_nobody_knows_is_one_sentence_about_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = site_at(tmp_path, 104, host="pacs.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", unresolved(socket.EAI_NONAME))
    assert cli.run(["site", "fetch", str(site)]) == 2
    said = capsys.readouterr().err
    assert "no such host" in said
    assert "data.pacs.host" in said


def test_a_host_that_can_be_no_name_is_one_sentence_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "fetch", str(site_at(tmp_path, 104, host="a..b"))]) == 2
    assert "no such host" in capsys.readouterr().err


def test_while_names_cannot_be_looked_up_the_pacs_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unresolved(socket.EAI_AGAIN))
    time = FakeClock()
    with pytest.raises(DataError, match=r"stayed away.*no_answer"):
        fetch(tmp_path, 104, time)
    assert sum(time.slept) == pytest.approx(15, abs=0.1)


def test_a_connection_that_is_not_understood_is_one_sentence(
    pacs: ScriptedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError(PLANTED)

    monkeypatch.setattr(AE, "associate", fails)
    with pytest.raises(ConfigError, match="no DIMSE service answers there") as caught:
        fetch(tmp_path, pacs.port)
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize("title", [" ", "ü", "A\\B", "A\tB", "", "A" * 17])
@pytest.mark.parametrize("setting", ["called_ae_title", "calling_ae_title"])
def test_what_can_be_no_ae_title_is_refused_under_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, title: str
) -> None:
    assert cli.run(["site", "fetch", str(site_at(tmp_path, 104, **{setting: title}))]) == 2
    assert f"data.pacs.{setting}" in capsys.readouterr().err


def test_days_that_end_before_they_begin_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = {"since": "2025-01-01", "until": "2024-01-01"}
    assert cli.run(["site", "fetch", str(site_at(tmp_path, 104, select=days))]) == 2
    said = capsys.readouterr().err
    assert "data.pacs.select" in said
    assert "`since` is after `until`" in said


def test_something_else_at_the_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def greet() -> None:
            for _ in range(5):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(f"220 {PLANTED}\r\n".encode() * 10)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises((DataError, ConfigError), match=r"stayed away|refuses") as caught:
            fetch(tmp_path, listener.getsockname()[1])
        assert PLANTED not in str(caught.value)
        thread.join(10)


def test_a_connection_offers_no_more_than_it_may() -> None:
    assert len(COMMON_CLASSES) <= CLASSES_AT_ONCE
    assert 2 + CLASSES_AT_ONCE * len(SYNTAXES) <= 128
    assert ExplicitVRLittleEndian in SYNTAXES


@pytest.mark.parametrize("spoilt", ["nothing", "PatientID", "error", "uid", "image"])
def test_nothing_of_the_data_or_of_an_answer_comes_out(
    pacs: ScriptedPacs,
    tmp_path: Path,
    spoilt: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    study, _, image = (pacs.found[level][0][1] for level in ("STUDY", "SERIES", "IMAGE"))
    assert study is not None and image is not None  # noqa: PT018 (for mypy)
    match spoilt:
        case "PatientID":
            study.SpecificCharacterSet = PLANTED
        case "error":
            pacs.got = [1, (0xC123, row(ErrorComment=PLANTED, OffendingElement=0x00100010))]
        case "uid":
            with quiet_pydicom():
                image.SOPInstanceUID = PLANTED
        case "image":
            buffer = BytesIO(PLANTED.encode())
            pacs.got = [1, (0xFF00, dcmread(buffer, force=True))]
    site = site_at(tmp_path, pacs.port)
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
