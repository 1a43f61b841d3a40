"""Starts a round's process in milliseconds, from one that has everything imported.

    python -m metaward_client.node.warm_start SOCKET

Flower starts a new Python for each message, and importing torch takes it seconds of processor time.
Here a process with the imports done waits, and what Flower starts (see
:func:`metaward_client.node.vetted_app.write_command`) only asks it for a copy of itself, which does
what `flwr-clientapp` does and ends. Nothing passes from one message to the next. Where nobody
answers, the slow way is taken.
"""

import json
import multiprocessing
import shutil
import signal
import socket
import sys
import threading
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.util import get_temp_dir
from pathlib import Path

from metaward_client.node import vetted_app

PRELOADED = (
    "torch",
    "flwr.supernode.cli.flwr_clientapp",
    "metaward_client.app",
    "metaward_client.site",
    "metaward_client.privacy.release",
)
MAX_REQUEST = 65_536


def serve(path: Path) -> None:
    """Answer on a socket in a folder that only this user may enter, until the process ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    signal.signal(signal.SIGTERM, _end)
    forkserver.ensure_running()
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer, args=(context, connection), daemon=True).start()


def _end(number: int, _: object) -> None:
    """End at a signal, and take the fork server's folder along, which would be left behind."""
    shutil.rmtree(get_temp_dir(), ignore_errors=True)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _answer(context: ForkServerContext, connection: socket.socket) -> None:
    """Read a command line, run it in a copy, and say how it ended."""
    with connection, connection.makefile("rw", encoding="utf-8") as stream:
        arguments = json.loads(stream.readline(MAX_REQUEST))
        process = context.Process(target=_run, args=(arguments,), name=vetted_app.COMMAND)
        process.start()
        process.join()
        code = process.exitcode
        stream.write(f"{code if code is not None and code >= 0 else 1}\n")


def _run(arguments: list[str]) -> None:
    sys.argv = [vetted_app.COMMAND, *arguments]
    vetted_app.main()


def main() -> None:
    """Serve on the socket that the command line names."""
    serve(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
