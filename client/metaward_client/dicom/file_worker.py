"""The process that reads or decodes files for a :class:`~.file_workers.FileWorkers`.

It runs codecs on files that nobody has vetted, so it may crash: it holds nothing but the chunk it
works on. What codecs print goes nowhere, since it may quote the file, and no core dump is written,
since it would hold pixels.
"""

import logging
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

from metaward_client.dicom.refusals import RefusalReason

MEMORY_BYTES = 4 * 2**30
"""Bound on a worker's private memory; a decoder that wants more gets MemoryError."""

MAY_LACK_MEMORY = (RefusalReason.TOO_LARGE, RefusalReason.UNDECODABLE_PIXELS)
"""What a file is refused for where memory does not suffice, in a decoder or beside it."""


class WorkerLost:
    """Stands for the result of a request whose worker died, hung, or raised."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkerLost)

    __hash__ = object.__hash__


READY = "ready"
"""First message of a worker: it could start."""


def main() -> None:
    """Serve chunks of requests from stdin until it closes."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    _limit_memory()
    pickle.dump(READY, replies)
    replies.flush()
    is_fresh = True
    try:
        while True:
            function, chunk = pickle.load(requests)  # noqa: S301 (from our own parent)
            _serve_chunk(function, chunk, replies, is_fresh=is_fresh)
            is_fresh = False
    except (EOFError, BrokenPipeError):
        os._exit(0)


def _serve_chunk(
    function: Callable[[Any], object], chunk: list[Any], replies: BinaryIO, *, is_fresh: bool
) -> None:
    """Answer requests.

    Memory that one file took is never quite given back. Where it does not suffice for a later one,
    that one is not answered: the process ends, and the parent asks a fresh one.
    """
    for request in chunk:
        try:
            result = function(request)
        except Exception:  # noqa: BLE001 (whatever a file provokes; its text must not travel)
            result = WorkerLost()
        if isinstance(result, RefusalReason) and result in MAY_LACK_MEMORY and not is_fresh:
            os._exit(1)
        is_fresh = False
        pickle.dump(result, replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()  # each by itself: the parent then knows at which file a worker died


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


if __name__ == "__main__":
    # Import by name, so that what is pickled here is known under that name in the parent.
    from metaward_client.dicom.file_worker import main as serve

    serve()
