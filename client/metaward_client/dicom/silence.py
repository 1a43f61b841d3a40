"""Keep what libraries say about files and answers to ourselves: it quotes values from them."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

PYDICOM = ("pydicom", "pylibjpeg", "openjpeg", "rle")
"""Loggers of pydicom and its codecs."""


@contextlib.contextmanager
def quiet_pydicom(also: Sequence[str] = ()) -> Iterator[None]:
    """Drop warnings, and all log records of pydicom and its codecs, inside the block.

    Args:
        also: Loggers of other libraries; those below them that have a level of their own too.
    """
    loggers = [logging.getLogger(name) for name in (*PYDICOM, *also)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
