import errno
import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from metaward.errors import DataError
from metaward_client.dicom import file_workers
from metaward_client.dicom.file_worker import WorkerLost
from metaward_client.dicom.file_workers import FileWorkers
from metaward_client.dicom.refusals import RefusalReason


@pytest.fixture(autouse=True)
def _no_waiting_for_ever() -> Iterator[None]:
    """Fail a test that hangs: that is what most mistakes here lead to."""

    def give_up(*_: object) -> None:
        raise TimeoutError("a minute without an end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_results_come_with_the_index_of_their_request() -> None:
    with FileWorkers(2) as workers:
        results = dict(workers.run(math.sqrt, [float(n * n) for n in range(100)]))
    assert results == {n: float(n) for n in range(100)}


def test_one_pool_serves_several_runs_without_new_processes() -> None:
    with FileWorkers(1) as workers:
        first = dict(workers.run(os.getpgid, [0]))
        (pid_a,) = dict(workers.run(eval, ["__import__('os').getpid()"])).values()
        (pid_b,) = dict(workers.run(eval, ["__import__('os').getpid()"])).values()
    assert first
    assert pid_a == pid_b != os.getpid()


def test_a_request_that_kills_its_worker_is_lost_and_no_other() -> None:
    requests = [f"{n}" for n in range(20)]
    requests[7] = "__import__('os')._exit(3)"
    requests[12] = "__import__('os').kill(__import__('os').getpid(), 11)"
    with FileWorkers(2) as workers:
        results = dict(workers.run(eval, requests, chunk_size=10))
    assert {n for n, result in results.items() if result == WorkerLost()} == {7, 12}
    assert {n: r for n, r in results.items() if n not in (7, 12)} == {
        n: n for n in range(20) if n not in (7, 12)
    }


def test_a_request_that_raises_is_lost_and_its_text_with_it() -> None:
    with FileWorkers(1) as workers:
        assert dict(workers.run(int, ["7", "PLANTED"])) == {0: 7, 1: WorkerLost()}


def test_a_request_that_hangs_is_given_up_at_once_and_the_others_are_not() -> None:
    started = time.monotonic()
    with FileWorkers(1, patience_s=2.0) as workers:
        results = dict(workers.run(time.sleep, [0.0, 60.0, 0.0, 0.0]))
    assert results == {0: None, 1: WorkerLost(), 2: None, 3: None}
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("reason", [RefusalReason.TOO_LARGE, RefusalReason.UNDECODABLE_PIXELS])
def test_a_request_is_not_refused_for_the_memory_that_one_before_it_took(
    reason: RefusalReason,
) -> None:
    """Else a patient with a large file would take away the image that is read after it."""
    reasons = "__import__('metaward_client.dicom.refusals').dicom.refusals.RefusalReason"
    refusal = f"{reasons}.{reason.name}"
    takes_memory = "setattr(__import__('sys'), 'taken', True)"
    needs_memory = f"{refusal} if hasattr(__import__('sys'), 'taken') else 'read'"
    with FileWorkers(1) as workers:
        together = dict(workers.run(eval, [takes_memory, needs_memory, "3", refusal], chunk_size=4))
        after = dict(workers.run(eval, [takes_memory])) | dict(workers.run(eval, [needs_memory]))
    assert together == {0: None, 1: "read", 2: 3, 3: reason}
    assert after == {0: "read"}


def test_a_request_is_not_blamed_for_the_death_of_a_damaged_worker() -> None:
    # The first request leaves a bomb behind that goes off in the second one.
    bomb = "__import__('signal').alarm(1)"
    requests = [bomb, "__import__('time').sleep(3) or 2", "3", "4"]
    with FileWorkers(1) as workers:
        results = dict(workers.run(eval, requests, chunk_size=2))
    assert results == {0: 0, 1: 2, 2: 3, 3: 4}


def test_a_request_that_wants_too_much_memory_is_lost() -> None:
    with FileWorkers(1) as workers:
        results = dict(workers.run(eval, ["len(bytearray(6 * 2**30))", "len(bytearray(10))"]))
    assert results == {0: WorkerLost(), 1: 10}


def test_what_workers_print_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    codec = "__import__('os').write({}, b'PLANTED') and print('PLANTED')"
    with FileWorkers(1) as workers:
        results = dict(workers.run(eval, [codec.format(1), codec.format(2), "5"]))
    assert results == {0: None, 1: None, 2: 5}
    assert "PLANTED" not in "".join(capfd.readouterr())


def test_giving_up_half_way_ends_the_workers() -> None:
    workers = FileWorkers(1)
    results = workers.run(time.sleep, [0.0, 60.0], chunk_size=1)
    next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 20
    with pytest.raises(ValueError, match="closed"):
        next(workers.run(time.sleep, [0.0]))


def test_no_requests_start_no_process() -> None:
    with FileWorkers(4) as workers:
        assert list(workers.run(math.sqrt, [])) == []


def test_a_worker_that_cannot_start_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_workers.sys, "executable", "/bin/true")
    with FileWorkers(1) as workers, pytest.raises(DataError, match="could not start"):
        dict(workers.run(math.sqrt, [1.0]))


def test_a_system_without_room_for_a_process_is_said_so_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(file_workers.subprocess, "Popen", full)
    with FileWorkers(1) as workers, pytest.raises(DataError, match="temporarily unavailable"):
        dict(workers.run(math.sqrt, [1.0]))


def test_a_system_without_room_for_a_thread_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def full(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", full)
    with FileWorkers(2) as workers, pytest.raises(DataError, match="can't start new thread"):
        dict(workers.run(math.sqrt, [1.0, 4.0]))


def test_a_request_that_cannot_be_sent_ends_the_run() -> None:
    with FileWorkers(1) as workers, pytest.raises((AttributeError, pickle.PicklingError)):
        dict(workers.run(lambda request: request, [1.0]))
