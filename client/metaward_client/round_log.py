"""A site's own log of orders: JSON lines, one for each order, on the site's disk alone."""

import errno
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

Line = dict[str, object]


def new_line() -> Line:
    """Return a line that begins now."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds")}


def append(path: Path, line: Line) -> None:
    """Write one line at once, whole or not at all.

    Where the disk is full the line is lost and the answer is not: it may have been charged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as log:
            written, before = json.dumps(line).encode() + b"\n", log.tell()
            if log.write(written) < len(written):
                log.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        logger.warning("no line in %s: %s", path.name, error.strerror)
