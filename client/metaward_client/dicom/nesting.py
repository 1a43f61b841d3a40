"""A bound on sequences in sequences.

pydicom reads each level by further calls, until Python allows no more. How many it allows hangs on
how deep the calls were before: a file could be read in a worker process and not in the site's own,
and which of them reads it hangs on how many files others bring, and on how these are compressed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from pydicom import filereader
from pydicom.sequence import Sequence

MOST_LEVELS = 32
"""Real objects have fewer than ten. Far below what Python allows under any caller of ours."""


class TooDeepError(Exception):
    """More levels than ``MOST_LEVELS``."""


@contextlib.contextmanager
def bounded_nesting() -> Iterator[None]:
    """Let pydicom refuse what is nested deeper, in this process, while the context is open.

    One thread of a process at a time: pydicom's function is replaced, and levels are counted.

    Raises:
        TooDeepError: Where it is.
    """
    unbounded, level = filereader.read_sequence, 0

    def read_sequence(*args: Any, **kwargs: Any) -> Sequence:  # Any: pydicom's own arguments
        nonlocal level
        if level == MOST_LEVELS:
            raise TooDeepError
        level += 1
        try:
            return unbounded(*args, **kwargs)
        finally:
            level -= 1

    filereader.read_sequence = read_sequence
    try:
        yield
    finally:
        filereader.read_sequence = unbounded
