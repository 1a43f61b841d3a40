"""A disk that is full or read-only is one sentence, of a look as of a command."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import typer

from metaward import cli
from metaward.disk import disk_trouble, explained

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


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")]
)
def test_a_command_that_cannot_write_says_why_in_one_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    app = typer.Typer()

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def write() -> None:
        raise OSError(number, os.strerror(number), "/data/north/node/kit.yaml")

    monkeypatch.setattr(cli, "build_app", lambda: app)
    assert cli.run(["write"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "where     /data/north/node\n" in printed
    assert "Traceback" not in printed


def test_any_other_failure_of_the_system_is_not_called_a_full_disk() -> None:
    assert explained(OSError(errno.EBADF, "bad file descriptor")) is None
