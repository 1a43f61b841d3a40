"""Files that readers see whole, or as they were before."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that readers see whole, or as it was before.

    Raises:
        OSError: It cannot be written; the error names ``path``.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # it became the file, or was never made
            fresh.unlink()


def write_new(path: Path, content: bytes) -> None:
    """Write a file that was not there, closed to other users; readers see it whole, or not at all.

    Raises:
        OSError: It cannot be written, or something stands there; the error names ``path``.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=".metaward-", dir=path.absolute().parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path.touch(mode=0o600, exist_ok=False)  # so the rename is in the place of nobody's file
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
