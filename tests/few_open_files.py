"""This process with a low limit of open files, as shells give it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def at_most_open(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def limit_that_leaves(n_files: int) -> int:
    """Return the limit under which this process may open so many files more.

    It is one of descriptors, and the lowest that is free is taken first.
    """
    taken = {int(path.name) for path in DESCRIPTORS.iterdir()}
    free = (number for number in count() if number not in taken)
    return next(islice(free, n_files - 1, None)) + 1
