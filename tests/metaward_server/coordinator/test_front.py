"""`metaward server health`: the SuperLink's own word, and what hospitals meet."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls

from metaward.cli import run
from metaward_server.coordinator.certificates import (
    Issued,
    new_authority,
    new_server_certificate,
)
from metaward_server.coordinator.front import ask_proxy
from metaward_server.coordinator.home import Coordinator, CoordinatorSettings, create

NOW = datetime.now(UTC)


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    public, health = free_ports(2)
    settings = CoordinatorSettings(
        address=f"fed.example.org:{public}", listen=f"127.0.0.1:{public}", health_port=health
    )
    return create(tmp_path / "c", settings, NOW)


def issued(coordinator: Coordinator) -> Issued:
    return Issued(coordinator.certificate.read_bytes(), coordinator.key.read_bytes())


@contextmanager
def proxy(
    coordinator: Coordinator, folder: Path, server: Issued, fleet: int = 415
) -> Iterator[None]:
    """Answer on the public port as nginx does, with that certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response_only(fleet if self.path == "/v1/fleet/pull-messages" else 404)
            self.end_headers()

    (folder / "s.crt").write_bytes(server.certificate)
    (folder / "s.key").write_bytes(server.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s.crt", folder / "s.key")
    port = int(coordinator.settings.bound.rpartition(":")[2])
    with HTTPServer(("127.0.0.1", port), Handler) as httpd:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        httpd.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused greetings
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield
        httpd.shutdown()
        thread.join()


@contextmanager
def superlink(coordinator: Coordinator) -> Iterator[None]:
    server = run_health_server_grpc_no_tls(f"127.0.0.1:{coordinator.settings.health_port}")
    yield
    server.stop(None).wait()


def test_a_coordinator_that_serves_is_one_line_and_exit_code_0(
    coordinator: Coordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with proxy(coordinator, tmp_path, issued(coordinator)), superlink(coordinator):
        assert run(["server", "health", str(coordinator.folder)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"SuperLink: SERVING at 127.0.0.1:{coordinator.settings.health_port}, "
            f"proxy: TLS at {coordinator.settings.bound}"
        ]


def test_where_nobody_listens_both_are_named_and_the_exit_code_is_5(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["server", "health", str(coordinator.folder)]) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert "SuperLink: no answer" in said.err
    assert "proxy: no answer" in said.err
    assert run(["server", "health", str(coordinator.folder), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["healthy"] is False


@pytest.mark.parametrize("status", [404, 502, 503, 504])
def test_a_proxy_without_a_superlink_behind_it_is_not_healthy(
    coordinator: Coordinator, tmp_path: Path, status: int
) -> None:
    with proxy(coordinator, tmp_path, issued(coordinator), fleet=status):
        answer = ask_proxy(coordinator)
    assert (answer.healthy, answer.said) == (False, f"no SuperLink behind it (HTTP {status})")


@pytest.mark.parametrize("kind", ["expired", "of another authority", "for another name"])
def test_a_certificate_that_hospitals_would_refuse_is_not_healthy(
    coordinator: Coordinator, tmp_path: Path, kind: str
) -> None:
    authority = Issued(coordinator.ca_certificate.read_bytes(), coordinator.ca_key.read_bytes())
    server = {
        "expired": lambda: new_server_certificate(
            authority, "fed.example.org", NOW - timedelta(days=800)
        ),
        "of another authority": lambda: new_server_certificate(
            new_authority("demo", NOW), "fed.example.org", NOW
        ),
        "for another name": lambda: new_server_certificate(authority, "other.example.org", NOW),
    }[kind]()
    with proxy(coordinator, tmp_path, server):
        answer = ask_proxy(coordinator)
    assert not answer.healthy
    assert "certificate is not accepted" in answer.said


def test_a_listener_that_never_greets_costs_the_deadline_and_no_more(
    coordinator: Coordinator,
) -> None:
    port = int(coordinator.settings.bound.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        answer = ask_proxy(coordinator, deadline_s=0.3)
    assert answer.said == f"no answer at 127.0.0.1:{port} (TimeoutError)"


def test_a_coordinator_does_not_start_where_its_health_port_is_taken(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    with superlink(coordinator):
        assert run(["server", "start", str(coordinator.folder)]) == 2
    assert f"health_port {coordinator.settings.health_port}" in capsys.readouterr().err
