"""The log of a process that runs for years: its newest lines, and a bound.

Flower says something for every question that it is asked, so a log grows by megabytes a day where
nothing happens at all.
"""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

LONGEST_BYTES = 16 * 2**20
KEPT_BYTES = 8 * 2**20


def keep_short(log: Path) -> None:
    """Cut a log that is longer than ``LONGEST_BYTES`` to its newest whole lines.

    It is cut in place: a process that holds it open, to append, goes on writing to its new end.
    What is written while it is cut may be lost. A log that cannot be cut stays as it is.

    Args:
        log: The file; it need not be there.
    """
    try:
        if log.stat().st_size > LONGEST_BYTES:
            _cut(log)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("%s is too long and cannot be cut: %s", log.name, error.strerror)


def _cut(log: Path) -> None:
    with log.open("rb") as file:
        file.seek(-KEPT_BYTES, os.SEEK_END)
        _, _, kept = file.read(KEPT_BYTES).partition(b"\n")
    with log.open("ab") as file:
        file.truncate(0)
        file.write(kept)
