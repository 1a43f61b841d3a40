"""A SuperNode whose loop has ended is a process that has ended."""

import subprocess
import sys

import pytest

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
