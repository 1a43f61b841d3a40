"""The pool of worker processes: isolation, replacement, and no orphans."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import psutil
import pytest

from metaward.errors import DataError, FederationError
from metaward.workers import WorkerPool

PARENT = """
import os, signal, sys, time
from metaward.workers import WorkerPool
if __name__ == "__main__":
    # tests that a shell runs in the background ignore it, and so do their children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = WorkerPool(2, preload=())
    pool.submit(time.sleep, 600)
    pool.submit(os.getpid).result()
    print(*pool.process_ids(), flush=True)
    time.sleep(600)
"""


sys.path.insert(0, str(Path(__file__).parent))  # workers import the jobs by name
import toy_jobs  # noqa: E402


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, preload=("torch",)) as pool:
        yield pool


def test_a_job_gives_its_result(pool: WorkerPool) -> None:
    assert pool.submit(divmod, 7, 2).result() == (3, 1)


def test_jobs_run_in_other_processes_at_the_same_time(pool: WorkerPool) -> None:
    jobs = [pool.submit_to(index, toy_jobs.sleep_and_tell, 0.3) for index in range(2)]
    assert len({job.result() for job in jobs} - {os.getpid()}) == 2


def test_a_worker_computes_with_one_thread(pool: WorkerPool) -> None:
    assert pool.submit(toy_jobs.torch_threads).result() == 1


def test_arrays_come_back_to_the_bit(pool: WorkerPool) -> None:
    array = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
    assert pool.submit(np.negative, array).result().tobytes() == (-array).tobytes()


def test_an_error_of_ours_keeps_its_four_parts(pool: WorkerPool) -> None:
    with pytest.raises(DataError) as caught:
        pool.submit(toy_jobs.refuse).result()
    error = caught.value
    assert (error.found, error.expected) == ("2 patients", "3 patients")
    assert (error.where, error.next_step) == ("site a", "Label more.")


def test_another_exception_comes_back_with_where_it_was_raised(pool: WorkerPool) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        pool.submit(divmod, 1, 0).result()
    assert "in a worker process" in "".join(caught.value.__notes__)


def test_an_exception_that_cannot_be_pickled_still_fails_the_job(pool: WorkerPool) -> None:
    with pytest.raises(RuntimeError, match="job raised Unpicklable"):
        pool.submit(toy_jobs.raise_unpicklable).result()


def test_a_dead_worker_fails_its_own_job_only_and_is_replaced(pool: WorkerPool) -> None:
    neighbour = pool.submit_to(1, toy_jobs.sleep_and_tell, 0.5)
    suicide = pool.submit(toy_jobs.kill_myself, signal.SIGKILL)
    segfault = pool.submit(toy_jobs.kill_myself, signal.SIGSEGV)
    after = [pool.submit(divmod, n, 2) for n in range(6)]
    with pytest.raises(FederationError, match="worker process died"):
        suicide.result()
    with pytest.raises(FederationError, match="exit code -11"):
        segfault.result()
    assert [job.result() for job in after] == [divmod(n, 2) for n in range(6)]
    assert neighbour.result() > 0


def test_a_worker_killed_while_idle_fails_no_job(pool: WorkerPool) -> None:
    pool.submit(divmod, 1, 1).result()
    workers = [psutil.Process(pid) for pid in pool.process_ids()]
    for worker in workers:
        worker.kill()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert len(workers) == 2
    assert not alive
    assert [pool.submit(divmod, n, 2).result() for n in range(4)] == [
        divmod(n, 2) for n in range(4)
    ]


def test_an_abandoned_job_stops_and_leaves_room_for_the_next(pool: WorkerPool) -> None:
    stuck = [pool.submit(time.sleep, 600) for _ in range(2)]
    waiting = pool.submit(divmod, 1, 1)
    time.sleep(0.3)
    for job in [waiting, *stuck]:
        pool.abandon(job)
    with pytest.raises(CancelledError):
        waiting.result(timeout=5)
    for job in stuck:
        with pytest.raises(FederationError):
            job.result(timeout=5)
    assert pool.submit(divmod, 9, 2).result(timeout=10) == (4, 1)


def test_closing_ends_the_workers_and_what_they_run() -> None:
    with WorkerPool(2, preload=()) as pool:
        running = pool.submit(time.sleep, 600)
        pool.submit(divmod, 1, 1).result()
        pids = pool.process_ids()
    with pytest.raises(FederationError):
        running.result(timeout=5)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_results_do_not_depend_on_the_number_of_workers() -> None:
    with WorkerPool(1, preload=()) as one:
        alone = [one.submit_to(n, divmod, n, 3).result() for n in range(5)]
    assert alone == [divmod(n, 3) for n in range(5)]


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    family = psutil.Process(parent.pid).children(recursive=True)
    assert set(workers) <= set(family)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_ctrl_c_stops_the_parent_and_prints_nothing_from_workers(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert errors.count("Traceback") == 1  # the parent's own KeyboardInterrupt
    assert "KeyboardInterrupt" in errors
