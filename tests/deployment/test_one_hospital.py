"""One hospital's commands as processes, before a coordinator that is not as it should be."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from metaward.enrolment import Kit
from metaward_client.node.node_folder import NodeFolder, create_node, join, own_public_key
from proxied_coordinator import AUTHORITY, NOW, coordinator, server
from real_federation import METAWARD

pytestmark = pytest.mark.slow
WAIT_S = 300.0
DIRECT = dict.fromkeys(("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "")


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    (tmp_path / "site" / "images").mkdir(parents=True)
    text = "name: north\ndata: {root: images}\nprivacy: {mechanism: none}\n"
    (tmp_path / "site" / "site.yaml").write_text(text)
    return create_node(tmp_path / "site" / "node", "north")


def take_kit(node: NodeFolder, address: str) -> None:
    kit = Kit(
        hospital="north",
        federation="demo",
        address=address,
        public_key=own_public_key(node),
        ca_certificate=AUTHORITY.certificate.decode(),
    )
    join(node, kit, "north")


def checked(node: NodeFolder, *before: str) -> tuple[int, dict[str, str]]:
    command = [*before, *METAWARD, "site", "check", str(node.path.parent), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | DIRECT
    )
    assert done.stdout, done.stderr
    return done.returncode, {one["name"]: one["said"] for one in json.loads(done.stdout)}


@contextmanager
def started(node: NodeFolder, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*METAWARD, "site", "start", str(node.path.parent)],
            stdout=output, stderr=output, env=os.environ | DIRECT,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S)


def until_said(log: Path, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while what not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
@pytest.mark.parametrize(
    ("off", "name", "said"),
    [
        ("+1d", "clock", "s ahead of the coordinator's"),
        ("-1d", "coordinator", "the certificate is not accepted (certificate is not yet valid)"),
    ],
)
def test_a_clock_that_is_a_day_off_is_said(
    tmp_path: Path, node: NodeFolder, off: str, name: str, said: str
) -> None:
    with coordinator(tmp_path, server()) as address:
        take_kit(node, address)
        code, lines = checked(node, "faketime", "-f", off)
    assert (code, said in lines[name]) == (5, True), lines


def test_an_expired_certificate_is_said_by_a_running_node_and_so_is_its_end(
    tmp_path: Path, node: NodeFolder
) -> None:
    log = tmp_path / "start.log"
    said = "coordinator: the certificate is not accepted (certificate has expired). "
    with coordinator(tmp_path, server(NOW - timedelta(days=800))) as address:
        take_kit(node, address)
        with started(node, log):
            until_said(log, "SuperNode ended (exit code ")
            until_said(log, said)
            lines = [line for line in log.read_text().splitlines() if line.startswith(said)]
    assert len(lines) == 1
    assert "Is the clock right? Then the coordinator has to renew; the kit stays." in lines[0]


def test_a_node_with_another_key_than_its_kits_does_not_start(
    tmp_path: Path, node: NodeFolder
) -> None:
    take_kit(node, "127.0.0.1:9")
    other = create_node(tmp_path / "other", "north")
    shutil.copy(other.key, node.key)
    log = tmp_path / "start.log"
    with started(node, log) as process:
        assert process.wait(WAIT_S) == 2
    assert "the kit is another hospital's, or for another key" in log.read_text()
    assert "Bring the right node.key back" in log.read_text()
    code, lines = checked(node)
    assert (code, "for another key" in lines["node"]) == (2, True)
