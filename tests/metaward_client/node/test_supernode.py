"""A SuperNode whose loop has ended is a process that has ended; one that goes on does not grow."""

import subprocess
import sys

import pytest
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supernode.nodestate import InMemoryNodeState

from metaward_client.node.supernode import TASKS_KEPT, forget_finished_tasks

PROGRAM = """
import threading
from metaward_client.node import supernode
from metaward_client.node.supernode import end_with

supernode.ENDS_S = 1.0
threading.Thread(target=threading.Event().wait).start()  # as Flower's own: it never ends

def work():
    {work}

end_with(work)
"""
BY_SIGTERM = -15


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("return", BY_SIGTERM, ""),
        ("raise OSError('certificate has expired')", BY_SIGTERM, "certificate has expired"),
        ("raise SystemExit(3)", 1, ""),
        ("import signal; signal.signal(signal.SIGTERM, lambda *_: None)", 1, ""),
    ],
    ids=["returns", "fails", "exits", "does not take its leave"],
)
def test_the_process_ends_with_its_work_though_other_threads_go_on(
    work: str, code: int, said: str
) -> None:
    command = [sys.executable, "-c", PROGRAM.format(work=work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert said in done.stderr


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> InMemoryNodeState:
    """Give a node's state in the hands of our SuperNode."""
    flowers = InMemoryNodeState.finish_task
    monkeypatch.setattr(InMemoryNodeState, "finish_task", flowers)  # put back at the end
    forget_finished_tasks()
    return InMemoryNodeState(InMemoryObjectStore())


def begun_task(state: InMemoryNodeState) -> int:
    task = state.create_task(TaskType.CLIENT_APP, run_id=1)
    assert task is not None
    assert state.claim_task(task)
    assert state.activate_task(task)
    return task


def test_a_supernode_forgets_the_tasks_of_orders_that_are_long_over(
    state: InMemoryNodeState,
) -> None:
    slow = begun_task(state)
    for _ in range(3 * TASKS_KEPT):
        newest = begun_task(state)
        assert state.finish_task(newest, SubStatus.COMPLETED, "")
    assert len(state.get_tasks()) == TASKS_KEPT + 1
    assert [task.task_id for task in state.get_tasks(task_ids=[newest])] == [newest]
    assert state.finish_task(slow, SubStatus.COMPLETED, "")


def test_what_flower_does_not_finish_is_not_finished(state: InMemoryNodeState) -> None:
    task = begun_task(state)
    assert state.finish_task(task, SubStatus.COMPLETED, "")
    assert not state.finish_task(task, SubStatus.COMPLETED, "")
    assert not state.finish_task(task + 1, SubStatus.COMPLETED, "")
