"""What `deploy/` says: container files, compose file and manifests, read for tests."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from metaward.cli import build_app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CONTAINERS = sorted((DEPLOY / "containers").glob("*.Containerfile"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ROLES = ("coordinator", "hospital")
STATE = "/var/lib/metaward"
PORT = 9443
Mapping = dict[str, Any]  # Any: YAML


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, rest) of a container file, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined if line.strip()]


def last(role: str, instruction: str) -> str:
    path = DEPLOY / "containers" / f"{role}.Containerfile"
    return [rest for name, rest in instructions(path) if name == instruction][-1]


def documents(path: Path) -> list[Mapping]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def services() -> dict[str, Mapping]:
    content: Mapping = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    found: dict[str, Mapping] = content["services"]
    return found


def of_kind(kind: str) -> list[Mapping]:
    return [one for path in MANIFESTS for one in documents(path) if one["kind"] == kind]


def pod() -> Mapping:
    [deployment] = of_kind("Deployment")
    spec: Mapping = deployment["spec"]["template"]["spec"]
    return spec


def parse_command(arguments: list[str]) -> None:
    """Let click read a command line of metaward, down to the sub-command, and run nothing."""
    group, command, *rest = arguments
    root = typer.main.get_command(build_app())
    assert isinstance(root, click.Group)
    inner = root.commands[group]
    assert isinstance(inner, click.Group)
    inner.commands[command].make_context(command, rest)


def tool(name: str) -> str:
    """Return the path of a validator; skip where there is none."""
    found = shutil.which(name, path=f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed: scripts/tools.sh")
    return found


def accepted(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
