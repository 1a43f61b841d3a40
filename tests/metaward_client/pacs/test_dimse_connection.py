"""DIMSE connections that end, fall silent, are refused or reach somebody else."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association

from faulty_pacs import FakeClock
from metaward import cli
from metaward.errors import ConfigError, DataError
from metaward_client.dicom.silence import quiet_threads
from metaward_client.pacs.dimse_connection import (
    CLASSES_AT_ONCE,
    COMMON_CLASSES,
    FIND,
    GET,
    SYNTAXES,
)
from metaward_client.pacs.failures import Failure
from scripted_pacs import PLANTED, ScriptedPacs, fetch, site_at

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("sockets_are_collected"),
]


def test_a_connection_that_ends_is_made_again_and_then_counted(
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    dimse_pacs.aborts = True
    report = fetch(tmp_path, dimse_pacs.port)
    assert report.failed == {Failure.INCOMPLETE: 1}
    assert 2 <= len(dimse_pacs.gets) <= 5


def test_a_connection_that_the_pacs_ends_while_it_is_idle_is_made_again(
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    class Idle(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) in (1, 4):
                for theirs in dimse_pacs.server.active_associations:
                    theirs.abort()
                for thread in threading.enumerate():
                    if isinstance(thread, Association) and thread.is_requestor:
                        thread.join(10)

    report = fetch(tmp_path, dimse_pacs.port, Idle(), requests_per_second=1.0)
    assert (report.n_fetched, report.failed, report.unlisted) == (1, {}, {})
    assert dimse_pacs.n_connections == 2 + 2


def test_a_pacs_that_falls_silent_in_the_middle_of_a_packet_is_asked_again(
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    over, waited_in_vain = threading.Event(), []

    def fall_silent(event: evt.Event) -> None:
        dimse_pacs.spoils = None
        event.assoc.dul.socket.send(b"\x04\x00\x00\x00\x01\x00half of 256 bytes")
        waited_in_vain.append(not over.wait(15))

    dimse_pacs.spoils = fall_silent
    report = fetch(tmp_path, dimse_pacs.port, timeout_seconds=1.0)
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
    dimse_pacs: ScriptedPacs, tmp_path: Path
) -> None:
    over, waited_in_vain = threading.Event(), []

    def be_busy(_: evt.Event) -> None:
        # Python loses a signal that comes in the moment in which the main thread begins to wait
        time.sleep(0.3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        waited_in_vain.append(not over.wait(15))

    dimse_pacs.spoils = be_busy
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, dimse_pacs.port, timeout_seconds=60.0)
    over.set()
    assert waited_in_vain == []


def test_a_packet_that_makes_no_sense_ends_no_thread_on_the_screen(
    dimse_pacs: ScriptedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(str(args.exc_value)))
    before = threading.excepthook

    def send_a_command_without_command(event: evt.Event) -> None:
        dimse_pacs.spoils = None
        command = bytes.fromhex("0103") + b"\x00\x00\x02\x09\x08\x00\x00\x00" + PLANTED.encode()
        item = len(command).to_bytes(4, "big") + command
        event.assoc.dul.socket.send(b"\x04\x00" + len(item).to_bytes(4, "big") + item)

    dimse_pacs.spoils = send_a_command_without_command
    assert fetch(tmp_path, dimse_pacs.port).n_fetched == 1
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
    dimse_pacs: ScriptedPacs, tmp_path: Path, lacking: list[str], message: str
) -> None:
    for kind in lacking:
        dimse_pacs.server.contexts = [
            c for c in dimse_pacs.server.contexts if c.abstract_syntax != kind
        ]
    with pytest.raises(ConfigError, match=message):
        fetch(tmp_path, dimse_pacs.port)


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
    dimse_pacs: ScriptedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError(PLANTED)

    monkeypatch.setattr(AE, "associate", fails)
    with pytest.raises(ConfigError, match="no DIMSE service answers there") as caught:
        fetch(tmp_path, dimse_pacs.port)
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize("title", [" ", "ü", "A\\B", "A\tB", "", "A" * 17])
@pytest.mark.parametrize("setting", ["called_ae_title", "calling_ae_title"])
def test_what_can_be_no_ae_title_is_refused_under_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, title: str
) -> None:
    assert cli.run(["site", "fetch", str(site_at(tmp_path, 104, **{setting: title}))]) == 2
    assert f"data.pacs.{setting}" in capsys.readouterr().err


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
