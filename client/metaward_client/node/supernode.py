"""Flower's SuperNode, as a process that ends where its work ends.

    python -m metaward_client.node.supernode [what flower-supernode takes]

Flower 1.41 gives up at an error of TLS while it asks for work: its loop returns, but other threads
keep the process, which says SERVING and asks nobody any more. A certificate that expires in a round
is enough. Here the process ends then, so that `metaward site start` starts it again.
"""

import os
import signal
import threading
import traceback
from collections.abc import Callable

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


def main() -> None:
    """Run Flower's own command."""
    from flwr.supernode.cli import flower_supernode

    end_with(flower_supernode)


if __name__ == "__main__":
    main()
