"""A process that runs one job after the other in one thread, until its parent is gone."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "67108864",
}
"""glibc keeps freed memory for the next step instead of giving it back to the kernel: a FOMAML
round took 0.7 times the CPU seconds (conv4, 32 filters at 32 pixels and 64 at 64), for 7 % more
memory."""


def start_process() -> "tuple[BaseProcess, Connection[Any, Any]]":
    """Start a process that runs jobs; return it, and the pipe that brings jobs and results.

    A job is ``pickle.dumps((function, args, kwargs))``, its result ``pickle.dumps((True, value))``
    or ``pickle.dumps((False, error))``.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), name="metaward-worker")
    process.start()
    theirs.close()
    return process, ours


def start_fork_server(preload: Sequence[str]) -> None:
    """Start the server that workers are forked from, unless it runs.

    Thread counts and malloc settings are read when a process starts, so they are set around this
    call; Ctrl-C is ignored by the server and by what it forks: the parent ends the workers.
    """
    forkserver.set_forkserver_preload(list(preload))
    with environment(ONE_THREAD | KEEP_MEMORY), _ignoring_ctrl_c():
        forkserver.ensure_running()


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that start inside, and put them back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; the server runs by then
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(pipe: "Connection[Any, Any]") -> None:
    """Run in the worker: one job after the other until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update(ONE_THREAD)
    if "torch" in sys.modules:  # one that is imported later reads the environment
        sys.modules["torch"].set_num_threads(1)
    while True:
        try:
            payload = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_run(payload))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _run(payload: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(payload)  # noqa: S301 (from our own parent)
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:  # noqa: BLE001 (carried to the caller's future)
        return _pickled_error(error)


def _pickled_error(error: Exception) -> bytes:
    with contextlib.suppress(Exception):
        error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
        data = pickle.dumps((False, error))
        cast(tuple[bool, Exception], pickle.loads(data))  # noqa: S301 (some only fail to load)
        return data
    return pickle.dumps((False, RuntimeError(f"a worker's job raised {type(error).__name__}")))
