"""What nginx makes of the SuperLink's answers, with a real nginx."""

import ssl
import subprocess
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from metaward_server.coordinator.home import Coordinator, CoordinatorSettings, create
from metaward_server.coordinator.processes import write_connection
from metaward_server.coordinator.proxy import find_nginx, write_proxy_config
from real_federation import NGINX, free_ports

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@contextmanager
def superlink(made: Coordinator, answers: dict[str, int]) -> Iterator[None]:
    """Answer with the code that stands for the last part of the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response_only(answers[self.path.rpartition("/")[2]])
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"said")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    port = int(made.superlink.rpartition(":")[2])
    with HTTPServer(("127.0.0.1", port), Handler) as httpd:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield
        httpd.shutdown()
        thread.join()


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    public, inner, health = free_ports(3)
    settings = CoordinatorSettings(
        address=f"127.0.0.1:{public}", superlink_port=inner, health_port=health
    )
    made = create(tmp_path / "c", settings, datetime.now(UTC))
    (made.folder / "proxy").mkdir(exist_ok=True)
    process = subprocess.Popen([find_nginx(), "-c", write_proxy_config(made)])
    try:
        yield made
    finally:
        process.terminate()
        process.wait(10)


def ask(made: Coordinator, path: str) -> tuple[int, bytes]:
    """Post once nginx listens."""
    context = ssl.create_default_context(cafile=made.ca_certificate)
    request = urllib.request.Request(f"https://{made.settings.address}{path}", data=b"")
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("nginx does not listen")


@pytest.mark.parametrize("name", ["a folder", 'one; "new" {2}', "back\\slash"])
def test_nginx_and_flower_find_the_coordinators_files_in_a_folder_of_any_name(
    tmp_path: Path, name: str
) -> None:
    public, inner, health = free_ports(3)
    settings = CoordinatorSettings(
        address=f"127.0.0.1:{public}", superlink_port=inner, health_port=health
    )
    made = create(tmp_path / name, settings, datetime.now(UTC))
    subprocess.run([find_nginx(), "-t", "-c", write_proxy_config(made)], check=True)
    assert (made.folder / "proxy" / "body").is_dir()
    write_connection(made)
    flower = tomllib.loads((made.flower_home / "config.toml").read_text(encoding="utf-8"))
    assert flower["superlink"]["coordinator"]["root-certificates"] == str(made.ca_certificate)


def test_an_error_within_the_superlink_is_for_nodes_a_reason_to_ask_again(
    coordinator: Coordinator,
) -> None:
    answers = {"send-node-heartbeat": 500, "pull-messages": 415, "get-run": 200, "get-fab": 401}
    with superlink(coordinator, answers):
        said = {name: ask(coordinator, f"/v1/fleet/{name}") for name in answers}
    assert said.pop("send-node-heartbeat")[0] == 503  # at 500 its thread of heartbeats would end
    assert said == {
        "pull-messages": (415, b"said"), "get-run": (200, b"said"), "get-fab": (401, b"said"),
    }  # fmt: skip
    assert ask(coordinator, "/v1/fleet/get-run")[0] == 502  # nobody there
