"""The images as the compose file runs them: a study between containers, hardened, and healthy.

Every step is one of docs/deploy-containers.md. The images have to be there: that page builds them.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from metaward_sim.demo_data import write_demo

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose.yaml"
IMAGES = tuple(f"localhost/metaward-{role}:0.1.0" for role in ("coordinator", "hospital"))
PATH = f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ['PATH']}"
STATE = "/var/lib/metaward"
HOME = {"coordinator": ("server", f"{STATE}/coordinator"), "north": ("site", f"{STATE}/site")}
WAIT_S = 900.0
STUDY = """\
name: first
rounds: 2
model: {filters: 8, image_size: 32, groups: 2}
learner: {name: prototypical, n_way: 2, n_shot: 1, n_query: 1, episodes: 2}
round: {quorum: 2, deadline_s: 600}
"""
SITE = """\
name: {name}
data: {{root: /data/images, labels: /data/labels.csv, key: sop_instance_uid, label: label}}
cache: /var/lib/metaward/cache
privacy: {{mechanism: none}}
synthetic: true
"""


pytestmark = pytest.mark.slow


def require_engine_and_images() -> None:
    for program in ("podman", "podman-compose"):
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"{program} is not installed (apt-get install podman; scripts/tools.sh)")
    for name in IMAGES:
        if subprocess.run(["podman", "image", "exists", name], check=False).returncode != 0:
            pytest.skip(f"there is no image {name}: docs/deploy-containers.md")


@dataclass(frozen=True)
class Composed:
    """The services of the compose file, under a name of this test's own."""

    project: str
    environment: dict[str, str]

    def compose(self, *arguments: str, said: str = "") -> str:
        command = ["podman-compose", "-p", self.project, "-f", str(COMPOSE), *arguments]
        done = subprocess.run(
            command, env=self.environment, input=said, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}\n{done.stderr}\n{done.stdout}"
        return done.stdout

    def once(self, service: str, *arguments: str, said: str = "") -> str:
        """Run a command of metaward in a container that is gone afterwards."""
        return self.compose("run", "--rm", "-T", service, *arguments, said=said)

    def container(self, service: str) -> str:
        return f"{self.project}_{service}_1"

    def inside(self, service: str, *command: str, said: str = "") -> "tuple[int, str]":
        """Run a program in a container that runs."""
        done = subprocess.run(
            ["podman", "exec", "-i", self.container(service), *command],
            input=said, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def typed(self, service: str, *command: str, said: str = "") -> str:
        code, text = self.inside(service, "metaward", *command, said=said)
        assert code == 0, text
        return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    require_engine_and_images()
    folder = tmp_path_factory.mktemp("hospitals")
    write_demo(folder, hospitals=2, patients=6, seed=2, workers=2)
    for found, name in zip(sorted(folder.iterdir()), ("north", "south"), strict=True):
        found.rename(folder / name)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in list(folder.parents)[:2]:  # pytest's own, closed to the image's user
        parent.chmod(0o711)
    environment = os.environ | {
        "PATH": PATH,
        "HOSPITALS": str(folder),
        "LISTEN": f"127.0.0.1:{free_port()}",
    }
    made = Composed(f"metaward-test-{os.getpid()}", environment)
    try:
        yield made
    finally:
        made.compose("down", "--volumes")


def until_finished(made: Composed, home: str) -> None:
    """Wait for the study's end; where it does not come, say what the coordinator says."""
    end = time.monotonic() + WAIT_S
    while True:
        said = made.typed("coordinator", "server", "status", home, "--json")
        [study] = json.loads(said)["studies"]
        if study["state"] == "finished":
            return
        assert study["state"] != "failed", said
        assert time.monotonic() < end, said
        time.sleep(3)


@pytest.fixture(scope="module")
def federation(composed: Composed) -> Composed:
    """A coordinator and two hospitals that take part, as the page sets them up."""
    made, (_, coordinator), (_, site) = composed, HOME["coordinator"], HOME["north"]
    made.once("coordinator", "server", "init", coordinator, "--address", "coordinator:9443")
    made.compose("up", "-d", "coordinator")
    made.typed("coordinator", "server", "health", coordinator, "--wait", "300")
    for name in ("north", "south"):
        write = f"mkdir -p {site} && cat > {site}/site.yaml"
        shell = ("run", "--rm", "-T", "--entrypoint", "sh", name, "-c")
        made.compose(*shell, write, said=SITE.format(name=name))
        made.once(name, "site", "init", site, "--name", name)
        request = made.compose(*shell, f"cat {site}/node/enrolment.yaml")
        enrolled = made.typed("coordinator", "server", "enrol", coordinator, "/dev/stdin",
                              "--out", "/tmp", said=request)  # fmt: skip
        kit = made.inside("coordinator", "cat", f"/tmp/kit-{name}.yaml")[1]
        fingerprint = enrolled.strip().splitlines()[-1]
        made.once(name, "site", "join", site, "/dev/stdin", "--fingerprint", fingerprint, said=kit)
        agree = ("site", "approve", site, "/dev/stdin", "--by", "A. Officer", "--yes")
        made.once(name, *agree, said=STUDY)
        made.compose("up", "-d", name)
    return made


def test_a_study_runs_between_containers(federation: Composed) -> None:
    _, home = HOME["coordinator"]
    federation.typed("coordinator", "server", "run", home, "/dev/stdin", "--no-follow", said=STUDY)
    until_finished(federation, home)
    for name in ("north", "south"):
        lines = federation.inside(name, "cat", f"{STATE}/site/node/rounds.jsonl")[1].splitlines()
        assert [json.loads(line)["outcome"] for line in lines] == ["sent", "sent"]


@pytest.mark.parametrize("service", HOME)
def test_the_engines_own_health_check_says_that_a_service_is_well(
    federation: Composed, service: str
) -> None:
    name = federation.container(service)
    done = subprocess.run(["podman", "healthcheck", "run", name], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_health_check_fails_where_nothing_runs(federation: Composed) -> None:
    """In a container of the same image and volume, in which nothing was started."""
    group, home = HOME["coordinator"]
    arguments = ["run", "--rm", "-T", "coordinator", group, "health", home]
    with pytest.raises(AssertionError, match="no answer"):
        federation.compose(*arguments)


@pytest.mark.parametrize("service", HOME)
def test_a_service_can_write_to_its_volume_and_to_tmp_and_nowhere_else(
    federation: Composed, service: str
) -> None:
    for folder, can in {STATE: True, "/tmp": True, "/opt/metaward": False, "/etc": False}.items():
        code, said = federation.inside(service, "touch", f"{folder}/probe")
        assert (code == 0) is can, said
    assert federation.inside("north", "touch", "/data/probe")[0] != 0


@pytest.mark.parametrize("service", HOME)
def test_no_process_of_a_service_has_a_capability_or_is_root(
    federation: Composed, service: str
) -> None:
    statuses = federation.inside(service, "sh", "-c", "cat /proc/[0-9]*/status")[1]
    fields = [line.split(":\t") for line in statuses.splitlines() if ":\t" in line]
    assert {value for key, value in fields if key == "CapBnd"} == {"0" * 16}
    assert {value for key, value in fields if key == "CapEff"} == {"0" * 16}
    assert {value for key, value in fields if key == "NoNewPrivs"} == {"1"}
    assert {value.split()[0] for key, value in fields if key == "Uid"} == {"10001"}
    commands = {value for key, value in fields if key == "Name"}
    assert len(commands) >= 3, commands


def test_a_node_has_no_way_out(federation: Composed) -> None:
    program = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    code, said = federation.inside("north", "/opt/metaward/bin/python", "-c", program)
    assert (code, "unreachable" in said) == (1, True), said
