"""A log that grows for years is bounded, and its newest lines stay."""

import sys
from pathlib import Path

import pytest

from metaward import log_file
from metaward.log_file import keep_short
from metaward.services import Service, Services


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "LONGEST_BYTES", 40)
    monkeypatch.setattr(log_file, "KEPT_BYTES", 20)


@pytest.mark.usefixtures("small")
def test_a_long_log_keeps_its_newest_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("".join(f"line {number}\n" for number in range(9)))
    keep_short(log)
    assert log.read_text() == "line 7\nline 8\n"


@pytest.mark.usefixtures("small")
def test_a_short_log_and_one_that_is_not_there_stay_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    keep_short(log)
    assert not log.exists()
    log.write_text("line\n" * 8)
    keep_short(log)
    assert log.read_text() == "line\n" * 8


@pytest.mark.usefixtures("small")
def test_who_holds_a_log_open_goes_on_writing_behind_what_was_kept(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    with log.open("a") as process:
        process.write("old\n" * 20)
        process.flush()
        keep_short(log)
        process.write("new\n")
    assert log.read_text() == "old\n" * 4 + "new\n"


@pytest.mark.usefixtures("small")
def test_a_log_that_cannot_be_cut_is_said_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Path) -> None:
        raise OSError(30, "Read-only file system")

    log = tmp_path / "one.log"
    log.write_text("line\n" * 20)
    monkeypatch.setattr(log_file, "_cut", fails)
    keep_short(log)
    assert "one.log is too long and cannot be cut: Read-only file system" in caplog.text
    assert log.read_text() == "line\n" * 20


@pytest.mark.usefixtures("small")
def test_the_log_of_a_service_is_kept_short_while_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("of an earlier start\n" * 20)
    service = Service("one", [sys.executable, "-c", "import time; time.sleep(600)"], {}, log)
    running = Services([service], on_change=lambda _: running.stop())
    running.run()
    assert log.stat().st_size <= 20
