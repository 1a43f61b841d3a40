"""The coordinator is looked at by the road that the node takes: directly, or through a proxy."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from metaward_client.node.coordinator_check import _clock, look_at_coordinator
from metaward_client.node.finding import Finding
from proxied_coordinator import AUTHORITY, coordinator, server

PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_bytes(AUTHORITY.certificate)
    return path


@contextmanager
def connect_proxy(answer: bytes = b"200 OK") -> Iterator[tuple[str, list[bytes]]]:
    """Be a proxy that answers CONNECT, and passes bytes where it says 200; give what it was asked.

    It passes them wherever it likes: the name in the request cannot be resolved here.
    """
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def in_thread(target: Callable[..., None], *arguments: socket.socket) -> threading.Thread:
        threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        threads[-1].start()
        return threads[-1]

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            in_thread(one, client)

    def one(client: socket.socket) -> None:
        with client:
            request = client.recv(4096)
            asked.append(request)
            client.sendall(b"HTTP/1.1 " + answer + b"\r\n\r\n")
            if answer.startswith(b"200"):
                port = int(request.split()[1].rpartition(b":")[2])
                with socket.create_connection(("127.0.0.1", port)) as upstream:
                    back = in_thread(copy, upstream, client)
                    copy(client, upstream)
                    back.join(20)

    def copy(source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                to.sendall(piece)
            to.shutdown(socket.SHUT_WR)

    in_thread(serve)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(20)


def found(address: str, authority: Path) -> Finding:
    findings = {one.name: one for one in look_at_coordinator(address, authority)}
    return findings["coordinator"]


def test_a_proxy_is_used_and_named_without_its_password(
    tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coordinator(tmp_path, server()) as address, connect_proxy() as (proxy, asked):
        monkeypatch.setenv("https_proxy", f"http://user:secret@{proxy}")
        one = found(address, authority)
    assert (one.state, one.exit_code) == ("ok", 2)
    assert f"through the proxy {proxy};" in one.said
    assert "secret" not in one.said
    assert asked
    assert asked[0].startswith(f"CONNECT {address} ".encode())


def test_no_proxy_goes_past_the_proxy(
    tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coordinator(tmp_path, server()) as address, connect_proxy() as (proxy, asked):
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        one = found(address, authority)
    assert (one.state, asked) == ("ok", [])
    assert "proxy" not in one.said


def test_a_proxy_that_says_no_is_said(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect_proxy(b"403 Forbidden") as (proxy, _):
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        one = found("federation.example.org:9443", authority)
    assert (one.state, one.exit_code) == ("wrong", 5)
    way = "refuses the way to federation.example.org:9443 (403 Forbidden)"
    assert one.said == f"the proxy {proxy} {way}"


def test_a_proxy_that_is_not_there_is_said(
    authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy() as (proxy, _):
        pass
    monkeypatch.setenv("https_proxy", f"http://{proxy}")
    one = found("federation.example.org:9443", authority)
    assert f"cannot be reached through the proxy {proxy} (Connection refused)" in one.said


@pytest.mark.parametrize(
    ("ahead_s", "state"), [(-300, "wrong"), (-200, "ok"), (0, "ok"), (2, "ok"), (7, "wrong")]
)
def test_a_clock_may_be_minutes_behind_and_only_seconds_ahead(ahead_s: float, state: str) -> None:
    coordinators = datetime.now(UTC) - timedelta(seconds=ahead_s)
    assert _clock(format_datetime(coordinators, usegmt=True)).state == state


def test_flower_takes_what_the_check_takes() -> None:
    """The two limits are Flower's; a release that changes them must be seen."""
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    assert (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE) == (5, 300)
