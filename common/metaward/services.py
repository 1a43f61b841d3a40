"""Processes that have to run until somebody ends them: started, watched, started again.

Where systemd or a container engine watches, one command per service does; this is for a machine
that has neither, and it keeps processes that belong together together. A process that ends is
started again after a pause, which doubles while it does not last.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metaward.errors import ConfigError
from metaward.log_file import keep_short

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LASTED_S = 120.0
"""A process that ran for so long is started again after the first pause, not a longer one."""
POLL_S = 0.2
LOOK_AT_LOGS_S = 60.0
STOP_S = 10.0
"""What a process gets to end by itself before it is killed."""


@dataclass(frozen=True)
class Service:
    """A process that has to run.

    Attributes:
        name: For people.
        command: Program and arguments.
        environment: Added to that of this process.
        log: File that its output is appended to, and that is kept short.
        ready: Asked before it is started, for one that needs another; True: start.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], bool] = lambda: True


@dataclass
class _Running:
    service: Service
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    pause: float = FIRST_PAUSE_S
    not_before: float = 0.0


@dataclass
class Services:
    """Runs services until :meth:`stop`.

    Attributes:
        services: In the order in which they start; they end in the reverse order.
        on_change: Told what happened, one line for people.
        on_end: Called when a process has ended that should not.
    """

    services: Sequence[Service]
    on_change: Callable[[str], None] = lambda _: None
    on_end: Callable[[], None] = lambda: None
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _logs_not_before: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Start all and keep them running; returns after :meth:`stop`, when all have ended."""
        running = [_Running(service) for service in self.services]
        try:
            while not self._stopping.is_set():
                for one in running:
                    self._look_after(one)
                self._keep_logs_short()
                self._stopping.wait(POLL_S)
        finally:
            for one in reversed(running):
                _end(one.process)

    def stop(self) -> None:
        """Ask :meth:`run` to end; may be called from a signal handler."""
        self._stopping.set()

    def stop_on_signals(self) -> None:
        """End on Ctrl-C and on what systemd and container engines send."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.stop())

    def _look_after(self, one: _Running) -> None:
        now = time.monotonic()
        if one.process is not None:
            code = one.process.poll()
            if code is None:
                return
            _kill_group(one.process)
            one.process = None
            one.pause = next_pause(one.pause, now - one.began)
            one.not_before = now + one.pause
            self.on_change(
                f"{one.service.name} ended ({_ending(code)}); "
                f"it is started again in {one.pause:.0f} s"
            )
            self.on_end()
        elif now >= one.not_before and one.service.ready():
            one.process, one.began = _start(one.service), now
            self.on_change(f"{one.service.name} started (process {one.process.pid})")

    def _keep_logs_short(self) -> None:
        now = time.monotonic()
        if now < self._logs_not_before:
            return
        self._logs_not_before = now + LOOK_AT_LOGS_S
        for service in self.services:
            keep_short(service.log)


def next_pause(pause: float, lasted: float) -> float:
    """Return the seconds to wait before a process that ended after ``lasted`` is started again.

    >>> next_pause(1.0, lasted=3.0), next_pause(40.0, lasted=3.0), next_pause(40.0, lasted=3600.0)
    (2.0, 60.0, 1.0)
    """
    return FIRST_PAUSE_S if lasted > LASTED_S else min(2 * pause, LONGEST_PAUSE_S)


@contextlib.contextmanager
def only_one(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder; a process that is killed holds none.

    Args:
        folder: Gets a file `lock`.
        what: For the message, before "runs already".
        wait: Until another process has ended, instead of raising.

    Raises:
        ConfigError: Another process holds it.
    """
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConfigError(
                f"{what} runs already",
                expected="one process for one folder",
                where=str(folder),
                next_step="End the other one first.",
            ) from None
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder, as :func:`only_one` does."""
    path = folder / "lock"
    if not path.exists():
        return False
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start(service: Service) -> "subprocess.Popen[bytes]":
    service.log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 (our own commands)
            [*_dying_with_us(), *service.command],
            env=os.environ | dict(service.environment),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,  # Ctrl-C is for us, and we end them in order
        )
    finally:
        os.close(descriptor)


def _dying_with_us() -> list[str]:
    """Return what makes a process end when this one is killed; nothing where there is no setpriv.

    Without it a process that outlives us would keep its port, and the next start would wait for it.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _end(process: "subprocess.Popen[bytes] | None") -> None:
    """End a process and what it started."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        logger.warning("process %d did not end in %.0f s and is killed", process.pid, STOP_S)
    _kill_group(process)
    process.wait()


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
