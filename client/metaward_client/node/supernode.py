"""Flower's SuperNode, as a process that ends where its work ends.

    python -m metaward_client.node.supernode [what flower-supernode takes]

Flower 1.41 gives up at an error of TLS while it asks for work: its loop returns, but other threads
keep the process, which says SERVING and asks nobody any more. A certificate that expires in a round
is enough. Here the process ends then, so that `metaward site start` starts it again.

It keeps a task of every order for as long as it runs, 2 to 3 KiB each, and goes through all of them
whenever it is asked for the next, five times a second: after 10,000 orders that took 11 ms, after
50,000 it took 81 ms. Here it forgets those that are long over.
"""

import os
import signal
import threading
import traceback
from collections.abc import Callable

TASKS_KEPT = 100
"""Newest finished tasks that are not forgotten; of these a process may still be on its way out."""
ENDS_S = 30.0
"""Seconds that Flower has to take its leave of the SuperLink."""


def end_with(work: Callable[[], None]) -> None:
    """Do the work; when it returns or fails, end this process as SIGTERM would, or the hard way."""
    try:
        work()
    except Exception:  # noqa: BLE001 (printed, and the process ends)
        traceback.print_exc()
    finally:
        last_resort = threading.Timer(ENDS_S, os._exit, [1])
        last_resort.daemon = True
        last_resort.start()
    signal.raise_signal(signal.SIGTERM)


def forget_finished_tasks() -> None:
    """Make Flower's state of a node forget all finished tasks but the newest."""
    from flwr.common.constant import Status
    from flwr.supernode.nodestate import InMemoryNodeState

    finish = InMemoryNodeState.finish_task

    def finish_and_forget(
        self: InMemoryNodeState, task_id: int, sub_status: str, details: str
    ) -> bool:
        done = finish(self, task_id, sub_status, details)
        with self.lock_task_store:
            over = [
                number
                for number, task in self.task_store.items()  # in the order of their orders
                if task.status.status == Status.FINISHED
            ]
            for number in over[:-TASKS_KEPT]:
                del self.task_store[number]
                self.task_logs.pop(number, None)
        return done

    InMemoryNodeState.finish_task = finish_and_forget  # type: ignore[method-assign]


def main() -> None:
    """Run Flower's own command."""
    from flwr.supernode.cli import flower_supernode

    forget_finished_tasks()
    end_with(flower_supernode)


if __name__ == "__main__":
    main()
