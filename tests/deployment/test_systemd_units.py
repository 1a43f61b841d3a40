"""The units: what systemd says of them, and that they start commands that exist."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from metaward.cli import build_app

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
MOST_EXPOSED = 25
"""Tenths of systemd's exposure level, 0 to 100; up to 30 is what it calls OK."""


def runnable(unit: Path, folder: Path) -> Path:
    """Return the unit with a program that is on this machine, since ours is not in /opt."""
    copy = folder / unit.name
    text = unit.read_text().replace("/opt/metaward/bin/metaward", "/bin/true")
    copy.write_text(text.replace("User=metaward", "User=root"))
    return copy


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    copy = runnable(unit, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [x for x in done.stderr.splitlines() if unit.name in x]) == (0, [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_hardened(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}"]
    done = subprocess.run([*command, str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_commands_that_exist(unit: Path) -> None:
    lines = [x for x in unit.read_text().splitlines() if x.startswith("ExecStart")]
    assert [line.partition("=")[0] for line in lines] == ["ExecStart", "ExecStartPost"]
    root = typer.main.get_command(build_app())
    for line in lines:
        _, group, command, *arguments = shlex.split(line.partition("=")[2])
        found = root.commands[group].commands[command]  # type: ignore[attr-defined]
        found.make_context(command, arguments)


def test_there_is_a_unit_for_each_role() -> None:
    assert [unit.stem for unit in UNITS] == ["metaward-coordinator", "metaward-node"]
