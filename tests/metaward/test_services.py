"""Processes that have to run: started in order, started again, ended with what they started."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import psutil
import pytest

from metaward import services
from metaward.errors import ConfigError
from metaward.services import Service, Services, next_pause, only_one

LIVES = "import time; time.sleep(600)"
HAS_A_CHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True); time.sleep(600)"
)
WAIT_S = 60.0


def service(folder: Path, name: str, code: str, **options: Callable[[], bool]) -> Service:
    return Service(name, [sys.executable, "-c", code], {}, folder / f"{name}.log", **options)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@contextmanager
def running(*wanted: Service) -> Iterator[list[str]]:
    said: list[str] = []
    all_of_them = Services(wanted, said.append)
    thread = threading.Thread(target=all_of_them.run)
    thread.start()
    try:
        yield said
    finally:
        all_of_them.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def pid_in(line: str) -> int:
    return int(line.rstrip(")").rsplit(" ", 1)[1])


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "next_pause", lambda *_, **__: 0.02)
    monkeypatch.setattr(services, "POLL_S", 0.02)


@pytest.mark.usefixtures("short_pauses")
def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", LIVES)) as said:
        until(lambda: len(said) == 1)
        psutil.Process(pid_in(said[0])).kill()
        until(lambda: len(said) == 3)
        assert "killed by signal 9" in said[1]
        assert pid_in(said[2]) != pid_in(said[0])
        assert psutil.pid_exists(pid_in(said[2]))
    assert not psutil.pid_exists(pid_in(said[2]))


@pytest.mark.usefixtures("short_pauses")
def test_a_process_that_does_not_last_is_tried_for_ever(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", "raise SystemExit(7)")) as said:
        until(lambda: sum("exit code 7" in line for line in said) >= 4)


def test_pauses_double_up_to_a_minute_and_fall_back_after_one_that_lasted() -> None:
    assert list(accumulate([1.0] * 8, lambda pause, _: next_pause(pause, lasted=1.0))) == [
        1, 2, 4, 8, 16, 32, 60, 60,
    ]  # fmt: skip
    assert next_pause(60.0, lasted=121.0) == 1.0


def test_a_process_waits_for_the_one_that_it_needs(tmp_path: Path) -> None:
    ready = threading.Event()
    with running(
        service(tmp_path, "second", LIVES, ready=ready.is_set), service(tmp_path, "first", LIVES)
    ) as said:
        until(lambda: len(said) == 1)
        assert said[0].startswith("first")
        ready.set()
        until(lambda: len(said) == 2)
        assert said[1].startswith("second")


@pytest.mark.usefixtures("short_pauses")
def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", HAS_A_CHILD)) as said:
        log = tmp_path / "one.log"
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        first = int(log.read_text())
        psutil.Process(pid_in(said[0])).kill()
        until(lambda: len(log.read_text().split()) == 2)
        second = int(log.read_text().split()[1])
        until(lambda: not _lives(first))
        assert _lives(second)
    until(lambda: not _lives(second))


def test_the_log_of_a_process_is_not_for_others(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", LIVES)) as said:
        until(lambda: len(said) == 1)
    assert (tmp_path / "one.log").stat().st_mode & 0o077 == 0


def test_two_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    with only_one(tmp_path, "this node"):
        second = only_one(tmp_path, "this node")
        with pytest.raises(ConfigError, match="this node runs already"):
            second.__enter__()
    with only_one(tmp_path, "this node"):
        pass


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
