"""Keep what libraries say about files and answers to ourselves: it quotes values from them."""

import contextlib
import logging
import threading
import traceback
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


@contextlib.contextmanager
def quiet_threads(of: str) -> Iterator[None]:
    """Print nothing where a thread ends in an exception out of a package, inside the block.

    Whoever waits for such a thread notices that nothing comes.

    Args:
        of: The package.
    """
    show = threading.excepthook

    def show_others(ended: threading.ExceptHookArgs) -> None:
        modules = [f.f_globals.get("__name__") for f, _ in traceback.walk_tb(ended.exc_traceback)]
        if not any(str(module).partition(".")[0] == of for module in modules):
            show(ended)

    threading.excepthook = show_others
    try:
        yield
    finally:
        threading.excepthook = show
