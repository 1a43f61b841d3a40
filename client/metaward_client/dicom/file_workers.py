"""Worker processes that read unvetted files and may die without taking the scan with them.

`concurrent.futures` breaks the whole pool when one worker dies and does not say on which file.
`metaward.workers` starts its processes by fork and hands out one job at a time, for few and long
jobs on our own data. Here files are many, short and hostile: requests travel in chunks, a worker is
a plain subprocess with bounded memory and nowhere to print to. The file at which a worker died is
tried once more by a fresh one, since an earlier file may have done the damage; one that hung is
not.
"""

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from metaward.errors import DataError
from metaward_client.dicom.file_worker import READY, WorkerLost

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

PATIENCE_S = 120.0
"""Silence after which a worker is taken for hung; the slowest codec needs about a second for the
largest frame that is decoded."""

MOST_WORKERS = 16


def usable_cpus() -> int:
    """Return how many workers this process may keep busy."""
    try:
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    except AttributeError:  # not on macOS
        return min(os.cpu_count() or 1, MOST_WORKERS)


class FileWorkers:
    """Runs one function over many requests in worker processes; use as a context manager.

    The processes start with the first request and stay for the next call of :meth:`run`, so one
    pool can serve many sites.

    Args:
        workers: Processes.
        patience_s: Seconds without a sign of life after which a worker is killed.
    """

    def __init__(self, workers: int, *, patience_s: float = PATIENCE_S) -> None:
        self.workers = max(1, workers)
        self._patience_s = patience_s
        self._todo: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
        self._slots = [_Slot(self._todo, self._results) for _ in range(self.workers)]
        self._threads: list[threading.Thread] = []
        self._closed = False

    def __enter__(self) -> "FileWorkers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are at."""
        self._closed = True
        for slot in self._slots:
            slot.closed = True
            slot.kill()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def run(
        self,
        function: Callable[[RequestT], ResultT],
        requests: Sequence[RequestT],
        *,
        chunk_size: int = 16,
    ) -> Iterator[tuple[int, ResultT | WorkerLost]]:
        """Yield ``(index of the request, result)`` as results come in, in any order.

        Args:
            function: At the top level of a module that workers can import.
            requests: Each small enough to pickle.
            chunk_size: Requests sent to a worker at once.

        Raises:
            DataError: A worker could not be started.
        """
        if self._closed:
            raise ValueError("the pool is closed")
        size = max(1, min(chunk_size, -(-len(requests) // (2 * self.workers))))
        for start in range(0, len(requests), size):
            rows = range(start, min(start + size, len(requests)))
            self._todo.put(_Chunk(function, [(row, requests[row]) for row in rows]))
        if not self._threads:
            for slot in self._slots:
                thread = threading.Thread(target=slot.serve, name="metaward-worker", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # threads count as processes
                    raise _no_room(str(error)) from error
                self._threads.append(thread)
        left = len(requests)
        try:
            while left:
                index, result = self._next_result()
                left -= 1
                yield index, result  # type: ignore[misc]  # what `function` returned
        finally:
            if left:  # the caller gave up: what is still on its way belongs to nobody
                self.close()

    def _next_result(self) -> tuple[int, object]:
        while True:
            try:
                index, result = self._results.get(timeout=min(1.0, self._patience_s / 4))
            except queue.Empty:
                for slot in self._slots:
                    slot.kill_if_silent(self._patience_s)
                continue
            if isinstance(result, Exception):  # a thread's own: a worker never sends one
                raise result
            return index, result


class _Chunk:
    def __init__(
        self,
        function: Callable[[Any], object],
        items: list[tuple[int, Any]],
        *,
        needs_fresh: bool = False,
    ) -> None:
        self.function = function
        self.items = items
        self.needs_fresh = needs_fresh


class _Slot:
    """One worker process and the thread that feeds it."""

    def __init__(
        self,
        todo: "queue.SimpleQueue[_Chunk | None]",
        results: "queue.SimpleQueue[tuple[int, object]]",
    ) -> None:
        self._todo = todo
        self._results = results
        self._process: subprocess.Popen[bytes] | None = None
        self._busy_since: float | None = None
        self._was_silent = False
        self._is_fresh = True
        self.closed = False

    def serve(self) -> None:
        try:
            while (chunk := self._todo.get()) is not None and not self.closed:
                self._work_off(chunk)
        except Exception as error:  # noqa: BLE001 (raised where the results are waited for)
            self._results.put((-1, error))
        finally:
            if self._process is not None:
                self._reap(self._process)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def kill_if_silent(self, patience_s: float) -> None:
        since = self._busy_since
        if since is not None and time.monotonic() - since > patience_s:
            self._was_silent = True
            self.kill()

    def _work_off(self, chunk: _Chunk) -> None:
        answered = 0
        if chunk.needs_fresh and not self._is_fresh and self._process is not None:
            self._reap(self._process)
            self._process = None
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            self._was_silent = False
            self._busy_since = time.monotonic()
            pickle.dump((chunk.function, [request for _, request in chunk.items]), process.stdin)
            process.stdin.flush()
            for index, _ in chunk.items:
                result = pickle.load(process.stdout)  # noqa: S301 (from our own child)
                self._busy_since = time.monotonic()
                self._results.put((index, result))
                self._is_fresh = False
                answered += 1
        except (EOFError, OSError, pickle.UnpicklingError):
            self._reap(process)
            self._process = None
            self._after_death(chunk, answered)
        finally:
            self._busy_since = None

    def _after_death(self, chunk: _Chunk, answered: int) -> None:
        suspect, rest = chunk.items[answered], chunk.items[answered + 1 :]
        if self._was_silent or self._is_fresh:
            self._results.put((suspect[0], WorkerLost()))
        else:
            self._todo.put(_Chunk(chunk.function, [suspect], needs_fresh=True))
        if rest:
            self._todo.put(_Chunk(chunk.function, rest))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        try:
            process = subprocess.Popen(
                # -P: a file named like a module in the current folder must not be imported.
                [sys.executable, "-P", "-m", "metaward_client.dicom.file_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise _no_room(error.strerror or "") from error
        self._process = process
        self._is_fresh = True
        if self.closed:  # meanwhile
            process.kill()
        assert process.stdout is not None
        try:
            greeting = pickle.load(process.stdout)  # noqa: S301 (from our own child)
        except (EOFError, pickle.UnpicklingError):
            greeting = None
        if greeting != READY and not self.closed:
            raise DataError(
                "a worker process could not start",
                expected="that this Python can run `python -m metaward_client.dicom.file_worker`",
                next_step="Run that line in a terminal and correct what it reports.",
            )
        return process

    @staticmethod
    def _reap(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        process.wait()


def _no_room(reason: str) -> DataError:
    return DataError(
        f"a worker process could not start: {reason}",
        expected="an installed Python, and room for one more process: memory, the user's limit",
        next_step="Mend what is said, or run with fewer --workers.",
    )
