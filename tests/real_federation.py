"""A coordinator and its hospitals as real processes, set up with what an engineer types.

Each of them is at a place: by default this machine's loopback interface, or a network namespace, or
any other command that runs a command; and each may have settings of its own in its environment.
"""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from metaward import cli
from metaward.config import load_settings
from metaward.model_artefact import load_model
from metaward.study import Study
from metaward.worker_process import ONE_THREAD
from metaward_sim.demo_data import write_demo
from metaward_sim.federation import run_federation

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
METAWARD = [str(Path(sys.executable).with_name("metaward"))]
WAIT_S = 900.0
ENDS_S = 120.0
COORDINATOR = "coordinator"
STUDY = """\
name: first
rounds: 4
model: {filters: 8, image_size: 32, groups: 2}
learner: {name: prototypical, n_way: 2, n_shot: 1, n_query: 1, episodes: 2}
round: {quorum: 3, deadline_s: 240}
"""
NOT_PRIVATE = "privacy: {mechanism: none}\n"
PRIVATE = """\
privacy:
  mechanism: dp-sgd
  target_epsilon: 100.0
  target_delta: 1.0e-3
  population: 100
  labels: [solid branching, solid spiculated, mottled crescent, mottled wedge]
  ledger: ledger
  witness: witness
"""


@dataclass(frozen=True)
class Place:
    """Where somebody's commands run.

    Attributes:
        within: What stands before each command, such as ``ip netns exec NAME``.
        environment: Added to that of the tests.
    """

    within: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, *arguments: object) -> list[str]:
        return [*self.within, *METAWARD, *map(str, arguments)]

    @property
    def variables(self) -> dict[str, str]:
        return os.environ | ONE_THREAD | dict(self.environment)  # more threads add in another order


@dataclass
class Federation:
    """A coordinator, its hospitals, and the processes that were started."""

    folder: Path
    port: int
    sites: list[str]
    places: dict[str, Place] = field(default_factory=dict)
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        return self.folder / COORDINATOR

    @property
    def study(self) -> Path:
        return self.folder / "study.yaml"

    def site(self, name: str) -> Path:
        return self.folder / "hospitals" / name

    def place(self, who: str) -> Place:
        return self.places.get(who, Place())

    def start(self, who: str) -> None:
        """Start the coordinator, or the hospital of that name."""
        at = self.place(who)
        what = ("server", "start", self.coordinator)
        with (self.folder / f"{who}.log").open("ab") as log:
            self.processes[who] = subprocess.Popen(
                at.command(*(what if who == COORDINATOR else ("site", "start", self.site(who)))),
                stdout=log,
                stderr=log,
                env=at.variables,
            )

    def end(self, who: str) -> None:
        process = self.processes.pop(who)
        process.send_signal(signal.SIGTERM)
        _wait_for(process)

    def child(self, who: str, program: str) -> psutil.Process | None:
        """Return the process of that program below ``metaward ... start``."""
        for process in psutil.Process(self.processes[who].pid).children(recursive=True):
            try:
                if any(Path(part).name == program for part in process.cmdline()[:3]):
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def asked(self, who: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run one command where ``who`` is."""
        at = self.place(who)
        return subprocess.run(
            at.command(*arguments), capture_output=True, text=True, check=False, env=at.variables
        )

    def run(self) -> None:
        """Let the study begin."""
        typed("server", "run", self.coordinator, self.study, "--no-follow")

    def rounds(self, study: str = "first") -> list[dict[str, Any]]:
        """Return the coordinator's lines of the closed rounds."""
        path = self.coordinator / "studies" / study / "rounds.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def rounds_done(self, study: str = "first") -> int:
        return len(self.rounds(study))

    def orders(self, site: str) -> list[dict[str, Any]]:
        """Return the hospital's own lines, one for each order."""
        path = self.site(site) / "node" / "rounds.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def state(self, study: str = "first") -> str:
        path = self.coordinator / "studies" / study / "state.yaml"
        return str(yaml.safe_load(path.read_text())["state"])

    def said(self, who: str) -> str:
        """Return what ``metaward ... start`` has printed."""
        return (self.folder / f"{who}.log").read_text()

    def until(self, condition: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + wait_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not in {wait_s:.0f} s\n{self.logs()}"
            time.sleep(0.2)

    def until_round(self, number: int) -> None:
        self.until(lambda: self.rounds_done() >= number, f"round {number}")

    def until_finished(self) -> None:
        self.until(lambda: self.state() in ("finished", "failed"), "the end of the study")
        assert self.state() == "finished", self.logs()

    def require_undisturbed(self) -> None:
        """Check that theta is, bit for bit, that of the same study played in this process."""
        sites = [self.site(name) for name in self.sites]
        expected = run_federation(
            load_settings(self.study, Study), sites, self.folder / "in-process", workers=2
        )
        theta = load_model(self.coordinator / "studies" / "first" / "model").theta
        assert theta.keys() == expected.keys()
        for name, leaf in expected.items():
            np.testing.assert_array_equal(theta[name], leaf)

    def logs(self) -> str:
        files = [*self.folder.glob("*.log"), *self.folder.rglob("log/*.log")]
        return "\n".join(f"== {file}\n{file.read_text()[-3000:]}" for file in files)


def typed(*arguments: object) -> str:
    """Do what ``metaward ARGUMENTS`` does, in this process, which has everything imported."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = cli.run([*map(str, arguments)])
    assert code == 0, said.getvalue()
    return said.getvalue()


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_for(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def federation(
    folder: Path,
    *,
    study: str = STUDY,
    hospitals: int = 3,
    host: str = "127.0.0.1",
    places: Mapping[str, Place] | None = None,
    privacy: Mapping[int, str] | None = None,
    before_start: Callable[[Federation], None] = lambda _: None,
) -> Iterator[Federation]:
    """Set up with the commands of the deployment guide, and start all.

    Args:
        folder: Gets everything.
        study: What the hospitals approve.
        hospitals: How many.
        host: The coordinator's address.
        places: By "coordinator", or "0", "1", ... for the hospitals in the order of their names.
        privacy: The section of a hospital's site.yaml, by number; for a mechanism, a ledger too.
        before_start: Called when all have joined and nothing runs yet.
    """
    write_demo(folder / "hospitals", hospitals=hospitals, patients=6, seed=2, workers=2)
    port, superlink, health, *of_nodes = free_ports(3 + hospitals)
    sites = sorted(path.name for path in (folder / "hospitals").iterdir())
    where = dict(places or {})
    named = {name: where[str(i)] for i, name in enumerate(sites) if str(i) in where}
    made = Federation(folder, port, sites, where | named)
    made.study.write_text(study)
    typed("server", "init", made.coordinator, "--name", "demo",
               "--address", f"{host}:{port}", "--superlink-port", superlink,
               "--health-port", health)  # fmt: skip
    for number, (name, node_health) in enumerate(zip(sites, of_nodes, strict=True)):
        own = (privacy or {}).get(number, NOT_PRIVATE)
        _join(made, name, f"{own}health_port: {node_health}\n")
    try:
        before_start(made)
        for who in (COORDINATOR, *sites):
            made.start(who)
        yield made
    finally:
        for process in made.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in made.processes.values():
            _wait_for(process)


def _join(made: Federation, name: str, settings: str) -> None:
    site = made.site(name)
    with (site / "site.yaml").open("a") as file:
        file.write(settings)
    typed("site", "init", site, "--name", name)
    request = site / "node" / "enrolment.yaml"
    enrolled = typed("server", "enrol", made.coordinator, request,
                          "--out", made.folder)  # fmt: skip
    fingerprint = enrolled.strip().splitlines()[-1]
    kit = made.folder / f"kit-{name}.yaml"
    typed("site", "join", site, kit, "--fingerprint", fingerprint)
    typed("site", "approve", site, made.study, "--by", "A. Officer", "--yes")
    if not settings.startswith(NOT_PRIVATE):
        typed("site", "ledger", "create", site)
