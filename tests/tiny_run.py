"""Run command lines as a user does, and simulate the smallest federation that does everything."""

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metaward import cli

METAWARD = Path(sys.executable).with_name("metaward")
"""The installed command, for tests that need a process of its own."""

ROUNDS = 40
"""A few milliseconds each: enough to be killed between two of them."""

SCENARIO: Mapping[str, Any] = {  # Any: YAML holds any plain value
    "name": "tiny",
    "seed": 3,
    "rounds": ROUNDS,
    "hospitals": {"synthetic": 2, "held_out": 1, "patients": 4},
    "model": {"filters": 8, "image_size": 16, "groups": 2},
    "learner": {"name": "prototypical", "n_way": 3, "n_shot": 1, "n_query": 1, "episodes": 1},
    "baselines": {
        "methods": ["fedavg", "local", "random", "pooled"],
        "fedavg": {
            "rounds": 2,
            "learner": {"name": "fedavg", "local_steps": 1, "adapt": {"steps": 1}},
        },
        "local": {"steps": 1},
    },
    "evaluation": {"shots": [1, 5], "n_way": 3, "n_query": 1, "episodes": 4},
}
"""Alder and birch take part, cedar does not."""


@dataclass(frozen=True)
class Finished:
    """A command that ended: exit code and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class TinyRun(Finished):
    """A simulation that ended, and its run directory."""

    path: Path

    @property
    def report(self) -> dict[str, Any]:  # Any: JSON
        """The content of report.json."""
        content: dict[str, Any] = json.loads((self.path / "report.json").read_text())
        return content


def metaward(*words: str | Path) -> Finished:
    """Run one command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(word) for word in words])
    return Finished(code, out.getvalue(), err.getvalue())


def write_scenario(path: Path, **changes: object) -> Path:
    """Write the tiny scenario, with some of its top keys changed."""
    path.write_text(yaml.safe_dump({**SCENARIO, **changes}))
    return path


def simulate_tiny(out: Path, *options: str, **changes: object) -> TinyRun:
    """Simulate the tiny scenario into ``out``."""
    scenario = write_scenario(out.with_suffix(".yaml"), **changes)
    done = metaward("simulate", scenario, "--out", out, *options)
    return TinyRun(done.code, done.out, done.err, out)


def weights(run: Path) -> dict[str, bytes]:
    """Return the bytes of every model in a run directory."""
    return {
        path.parent.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("meta.safetensors"))
    }


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without times, places and command lines."""
    timed = {"provenance", "adapt_seconds", "seconds"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in timed}
        return [strip(item) for item in value] if isinstance(value, list) else value

    stripped: dict[str, Any] = strip(report)
    return stripped


def everything_in(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of every file below a folder, to see that nothing changed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_refused(done: Finished, code: int, *words: str) -> None:
    """Check that a command ended with one screen that names all words and a next step."""
    assert done.code == code, done.err
    for word in words:
        assert word in done.err
    assert "next step" in done.err
    assert len(done.err.splitlines()) < 24
    assert "Traceback" not in done.err
