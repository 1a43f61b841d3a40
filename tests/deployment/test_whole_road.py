"""A coordinator and three hospitals as real processes: TLS, node keys, a proxy, and kills.

Everything that a hospital's engineer types is typed here, on the command line. Without a mechanism
a study is a function of its seed, so what comes out after a kill must be, bit for bit, what the
same study gives in one process.
"""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from metaward.config import load_settings
from metaward.model_artefact import load_model
from metaward.study import Study
from metaward.workers import ONE_THREAD
from metaward_sim.demo_data import write_demo
from metaward_sim.federation import run_federation

pytestmark = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") is None,
    reason="nginx is not installed",
)

METAWARD = [str(Path(sys.executable).with_name("metaward"))]
WAIT_S = 420.0
STUDY = """\
name: first
rounds: 4
model: {filters: 8, image_size: 32, groups: 2}
learner: {name: prototypical, n_way: 2, n_shot: 1, n_query: 1, episodes: 2}
round: {quorum: 3, deadline_s: 240}
"""


@dataclass
class Federation:
    """A coordinator, its hospitals, and the processes that were started."""

    folder: Path
    port: int
    sites: list[str]
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    @property
    def study(self) -> Path:
        return self.folder / "study.yaml"

    def site(self, name: str) -> Path:
        return self.folder / "hospitals" / name

    def start(self, who: str, *arguments: object) -> None:
        with (self.folder / f"{who}.log").open("ab") as log:
            self.processes[who] = subprocess.Popen(
                [*METAWARD, *map(str, arguments)],
                stdout=log,
                stderr=log,
                env=os.environ | ONE_THREAD,  # more would add in another order
            )

    def child(self, who: str, program: str) -> psutil.Process | None:
        """Return the process of that program below ``metaward ... start``."""
        for process in psutil.Process(self.processes[who].pid).children(recursive=True):
            try:
                if any(Path(part).name == program for part in process.cmdline()[:3]):
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def rounds_done(self, study: str = "first") -> int:
        path = self.coordinator / "studies" / study / "rounds.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def state(self, study: str = "first") -> str:
        path = self.coordinator / "studies" / study / "state.yaml"
        return str(yaml.safe_load(path.read_text())["state"])

    def logs(self) -> str:
        files = [*self.folder.glob("*.log"), *self.folder.rglob("log/*.log")]
        return "\n".join(f"== {file}\n{file.read_text()[-3000:]}" for file in files)


def typed(*arguments: object) -> str:
    done = subprocess.run(
        [*METAWARD, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def federation(folder: Path) -> Iterator[Federation]:
    """Set up with the commands of the deployment guide, and start all."""
    write_demo(folder / "hospitals", hospitals=3, patients=6, seed=2, workers=2)
    sites = sorted(path.name for path in (folder / "hospitals").iterdir())
    port, superlink, health, *node_health = free_ports(3 + len(sites))
    made = Federation(folder, port, sites)
    made.study.write_text(STUDY)
    typed("server", "init", made.coordinator, "--name", "demo",
          "--address", f"127.0.0.1:{port}", "--superlink-port", superlink,
          "--health-port", health)  # fmt: skip
    for name, own_health in zip(sites, node_health, strict=True):
        site = made.site(name)
        with (site / "site.yaml").open("a") as file:
            file.write(f"privacy: {{mechanism: none}}\nhealth_port: {own_health}\n")
        typed("site", "init", site, "--name", name)
        enrolled = typed("server", "enrol", made.coordinator, site / "node" / "enrolment.yaml",
                         "--out", folder)  # fmt: skip
        fingerprint = enrolled.strip().splitlines()[-1]
        typed("site", "join", site, folder / f"kit-{name}.yaml", "--fingerprint", fingerprint)
        typed("site", "approve", site, made.study, "--by", "A. Officer", "--yes")
    made.start("coordinator", "server", "start", made.coordinator)
    for name in sites:
        made.start(name, "site", "start", made.site(name))
    try:
        yield made
    finally:
        for process in made.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in made.processes.values():
            process.wait(60)


def until(made: Federation, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {WAIT_S:.0f} s\n{made.logs()}"
        time.sleep(0.2)


def undisturbed(made: Federation) -> dict[str, np.ndarray]:
    """Return theta of the same study, run in this process."""
    study = load_settings(made.study, Study)
    sites = [made.site(name) for name in made.sites]
    return run_federation(study, sites, made.folder / "in-process", workers=2)


def kill(process: psutil.Process | None) -> None:
    assert process is not None
    process.kill()


def test_a_study_over_tls_survives_a_killed_superlink_and_equals_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    with federation(tmp_path) as made:
        typed("server", "run", made.coordinator, made.study, "--no-follow")
        until(made, lambda: made.rounds_done() >= 1, "the first round")
        _only_the_fleet_is_reachable(made)
        _all_say_that_they_serve(made)
        kill(made.child("coordinator", "flower-superlink"))
        until(made, lambda: made.state() in ("finished", "failed"), "the end of the study")
        assert made.state() == "finished", made.logs()
        status = json.loads(typed("server", "status", made.coordinator, "--json"))
    assert {one["hospital"] for one in status["hospitals"]} == set(made.sites)
    assert status["studies"][0]["rounds_done"] == 4
    log = (made.coordinator / "studies" / "first" / "rounds.jsonl").read_text()
    assert '"void": true' not in log, f"a hospital was late, so theta cannot be equal:\n{log}"
    _every_site_answered_every_round_once(made)
    artefact = load_model(made.coordinator / "studies" / "first" / "model")
    expected = undisturbed(made)
    assert artefact.theta.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(artefact.theta[name], leaf)
    _no_process_is_left(made)
    _nobody_says_that_it_serves(made)


@pytest.mark.slow
def test_a_study_survives_kills_of_a_node_a_round_and_its_own_process(tmp_path: Path) -> None:
    with federation(tmp_path) as made:
        made.study.write_text(STUDY.replace("rounds: 4", "rounds: 8").replace("first", "second"))
        for name in made.sites:
            typed("site", "approve", made.site(name), made.study, "--by", "A. Officer", "--yes")
        typed("server", "run", made.coordinator, made.study, "--no-follow")
        victims = [
            ("coordinator", "flwr-serverapp"),
            (made.sites[0], "flower-supernode"),
            ("coordinator", "flower-superlink"),
            (made.sites[1], "flower-superexec"),
        ]
        for number, (who, program) in enumerate(victims):
            until(made, lambda n=number: made.rounds_done("second") > n, f"round {number}")
            until(made, lambda w=who, p=program: made.child(w, p) is not None, program)
            kill(made.child(who, program))
        until(made, lambda: made.state("second") in ("finished", "failed"), "the end")
        assert made.state("second") == "finished", made.logs()
        lines = (made.coordinator / "studies" / "second" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round_index"] for line in lines] == list(range(8))


def _only_the_fleet_is_reachable(made: Federation) -> None:
    """What enrols nodes and starts code is not there for who comes from outside."""
    context = ssl.create_default_context(cafile=made.coordinator / "authority" / "ca.crt")
    for path in (
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/list-nodes",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1//control/list-nodes",
        "/docs",
        "/openapi.json",
        "/",
    ):
        request = urllib.request.Request(f"https://127.0.0.1:{made.port}{path}", data=b"")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, context=context, timeout=20)
        assert refused.value.code == 404, path
    stranger = ssl.create_default_context()
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"https://127.0.0.1:{made.port}/", context=stranger, timeout=20)


def _all_say_that_they_serve(made: Federation) -> None:
    said = json.loads(typed("server", "health", made.coordinator, "--json"))
    assert [(one["name"], one["healthy"]) for one in said["answers"]] == [
        ("SuperLink", True),
        ("proxy", True),
    ]
    for name in made.sites:
        assert typed("site", "health", made.site(name)).startswith("SuperNode: SERVING at 127.0")


def _nobody_says_that_it_serves(made: Federation) -> None:
    for part in (
        ["server", "health", made.coordinator],
        ["site", "health", made.site(made.sites[0])],
    ):
        done = subprocess.run([*METAWARD, *map(str, part)], capture_output=True, check=False)
        assert done.returncode == 5, part


def _every_site_answered_every_round_once(made: Federation) -> None:
    for name in made.sites:
        lines = (made.site(name) / "node" / "rounds.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert {entry["round_index"] for entry in entries} == {0, 1, 2, 3}
        assert {entry["outcome"] for entry in entries} == {"sent"}


def _no_process_is_left(made: Federation) -> None:
    mine = re.compile(re.escape(str(made.folder)))
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert process.pid == os.getpid() or not mine.search(command), command
