"""The same study on Flower's Ray engine."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metaward.errors import ConfigError
from metaward.learner_settings import FomamlSettings
from metaward.model_settings import ModelSettings
from metaward.study import AdamSettings, Study
from metaward_sim.demo_data import write_demo
from metaward_sim.federation import run_federation
from metaward_sim.ray_grid import NOTHING_LEAVES_THE_MACHINE, run_on_ray, silence_telemetry

STUDY = Study(
    seed=1,
    rounds=2,
    model=ModelSettings(filters=8, image_size=32),
    learner=FomamlSettings(n_way=2, n_shot=1, n_query=1, inner_steps=1, episodes=1),
    outer=AdamSettings(step_size=0.01),
)


def say_not_private(sites: list[Path]) -> None:
    for site in sites:
        with (site / "site.yaml").open("a") as file:
            file.write("privacy: {mechanism: none}\n")


# In a process of its own: Ray stays in the process that started it, and the name service and
# sockets are watched from the first import on.
SCRIPT = """
import hashlib, json, socket, sys
from pathlib import Path

contacted = []
connect, look_up = socket.socket.connect, socket.getaddrinfo

def watched_connect(self, address):
    if self.family != socket.AF_UNIX:
        contacted.append(str(address[0]))
    return connect(self, address)

def watched_look_up(host, *rest, **more):
    contacted.append(str(host))
    return look_up(host, *rest, **more)

socket.socket.connect, socket.getaddrinfo = watched_connect, watched_look_up
own = {"127.0.0.1", "localhost", "0.0.0.0", "::1", "None", "", socket.gethostname(),
       socket.gethostbyname(socket.gethostname())}

if __name__ == "__main__":
    from metaward.study import Study
    from metaward_sim.federation import run_federation

    study, run_dir, *sites = sys.argv[1:]
    print("started", flush=True)
    theta = run_federation(
        Study.model_validate_json(study), [Path(s) for s in sites], Path(run_dir), grid="ray",
        workers=2,
    )
    digest = hashlib.sha256(b"".join(theta[n].tobytes() for n in sorted(theta))).hexdigest()
    print(json.dumps({"theta": digest, "contacted": sorted(set(contacted) - own)}))
"""


def test_without_ray_the_pip_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'metaward\[ray\]'"):
        run_on_ray(lambda _: {}, [{}], n_workers=1)


def test_telemetry_is_off_also_when_flower_was_imported_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in NOTHING_LEAVES_THE_MACHINE:
        monkeypatch.setenv(name, "1" if name == "FLWR_TELEMETRY_ENABLED" else "x")
    import flwr.supercore.telemetry as telemetry

    monkeypatch.setattr(telemetry, "FLWR_TELEMETRY_ENABLED", "1")
    silence_telemetry()
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert {name: os.environ[name] for name in NOTHING_LEAVES_THE_MACHINE} == {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.mark.slow
def test_on_ray_a_study_ends_at_the_same_bits_and_the_driver_contacts_nobody(
    tmp_path: Path,
) -> None:
    import hashlib

    sites = [s.path for s in write_demo(tmp_path / "hospitals", hospitals=3, patients=4)]
    say_not_private(sites)
    theta = run_federation(STUDY, sites, tmp_path / "here")
    script = tmp_path / "on_ray.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), STUDY.model_dump_json(), str(tmp_path / "ray"),
         *map(str, sites)],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["contacted"] == []
    assert (
        result["theta"]
        == hashlib.sha256(b"".join(theta[name].tobytes() for name in sorted(theta))).hexdigest()
    )
    assert (tmp_path / "ray" / "rounds.jsonl").read_text().count("\n") == 2
    assert len(list((tmp_path / "ray" / "sites").glob("*.jsonl"))) == 3
    assert done.stdout.count("\n") == 2
    assert done.stderr == ""


@pytest.mark.slow
def test_ctrl_c_ends_a_study_on_ray_soon(tmp_path: Path) -> None:
    sites = [s.path for s in write_demo(tmp_path / "hospitals", hospitals=2, patients=4)]
    say_not_private(sites)
    script = tmp_path / "on_ray.py"
    script.write_text(SCRIPT)
    study = STUDY.model_copy(update={"rounds": 100_000})
    run_dir = tmp_path / "ray"
    running = subprocess.Popen(
        [sys.executable, str(script), study.model_dump_json(), str(run_dir), *map(str, sites)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    rounds = run_dir / "rounds.jsonl"
    deadline = time.monotonic() + 90
    while not (rounds.exists() and rounds.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode != 0
    assert "KeyboardInterrupt" in errors
