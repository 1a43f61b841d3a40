"""A disk that is full, read-only or closed is one sentence, of a look as of a command."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import typer

from metaward import cli
from metaward.disk import disk_trouble, existing_part, explained

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "said", "stops_work"),
    [(0, "the disk is full", True), (2**29, "only 512 MiB are free", False)],
)
def test_little_room_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, said: str, stops_work: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, free))
    trouble = disk_trouble(tmp_path / "not" / "yet" / "there")
    assert trouble is not None
    assert (trouble.said, trouble.stops_work) == (said, stops_work)


def test_enough_room_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, 2**31))
    assert disk_trouble(tmp_path) is None


FOLDER = "/data/north/node"


@pytest.mark.parametrize(
    ("number", "said", "where"),
    [
        (errno.ENOSPC, "the disk is full", FOLDER),
        (errno.EROFS, "read-only", FOLDER),
        (errno.EACCES, "sudo -u", f"{FOLDER}/kit.yaml"),
    ],
)
def test_a_command_that_cannot_write_says_why_in_one_screen(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    said: str,
    where: str,
) -> None:
    app = typer.Typer()

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def write() -> None:
        raise OSError(number, os.strerror(number), f"{FOLDER}/kit.yaml")

    monkeypatch.setattr(cli, "build_app", lambda: app)
    assert cli.run(["write"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert f"where     {where}\n" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "bad file descriptor"), PermissionError(errno.EPERM, "connect")]
)
def test_any_other_failure_of_the_system_is_not_called_a_disk_s(error: OSError) -> None:
    assert explained(error) is None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("site init {0}/file --name north --images {0}", "something else stands there"),
        ("site init {0}/file/x --name north --images {0}", "a file stands where a folder"),
        ("site init /proc/x --name north --images {0}", "no such file or folder"),
        ("site init {0}/loop/x --name north --images {0}", "links lead in a circle"),
        ("site init {0}/{1} --name north --images {0}", "the name is too long"),
        ("server init {0}/file --address a.example:9443", "a file stands where a folder"),
        ("server init {0}/file/x --address a.example:9443", "a file stands where a folder"),
        ("server init /proc/x --address a.example:9443", "no such file or folder"),
    ],
)
def test_a_path_on_which_nothing_can_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert cli.run([part.format(tmp_path, 300 * "n") for part in command.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("out", ["{}/file", "{}/file/x", "/proc/x", "{}/taken"])
def test_a_kit_that_cannot_be_written_enrols_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "kit-north.yaml").mkdir(parents=True)
    coordinator = tmp_path / "c"
    site = ["site", "init", str(tmp_path / "s"), "--name", "north", "--images", str(tmp_path)]
    assert cli.run(["server", "init", str(coordinator), "--address", "a.example:9443"]) == 0
    assert cli.run(site) == 0
    request = str(tmp_path / "s" / "node" / "enrolment.yaml")
    enrol = ["server", "enrol", str(coordinator), request, "--out", out.format(tmp_path)]
    assert cli.run(enrol) == 2
    where = out.format(tmp_path) + ("/kit-north.yaml\n" if "taken" in out else "\n")
    assert f"where     {where}" in capsys.readouterr().err
    assert not list((coordinator / "hospitals").iterdir())


def test_a_folder_that_this_user_cannot_look_into_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    monkeypatch.setattr(os, "access", lambda path, _: closed not in Path(path).parents)
    assert existing_part(closed / "node") == closed
