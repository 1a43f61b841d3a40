"""Files that hold a secret: this user's own, closed to everybody else, written whole or not at all.

A key that others may read is refused where it is used, not only made well: permissions change when
files are copied, restored or unpacked.
"""

import contextlib
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from metaward.errors import ConfigError

OTHERS = 0o077
"""Permission bits of the group and of everybody else."""


def make_private_folder(path: Path) -> None:
    """Make a folder, and those above it, that only this user may enter; an existing one stays."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def whole_or_empty(folder: Path) -> Iterator[None]:
    """Empty a folder, which was empty before, where not all of its content comes to be in it."""
    try:
        yield
    except BaseException:
        for part in folder.glob("*"):
            shutil.rmtree(part, ignore_errors=True)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise


def write_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600; it is on the disk when this returns.

    Raises:
        ConfigError: There is a file of that name.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)  # unlike a rename, never in the place of another file
    except FileExistsError:
        raise ConfigError(
            "there is a file of that name already",
            expected="a new name: a secret is never overwritten",
            where=str(path),
            next_step="Keep it, or move it away first.",
        ) from None
    finally:
        fresh.unlink()


def require_private(path: Path, *, setting: str = "") -> None:
    """Check that a secret is this user's own file, no link, and closed to others.

    Args:
        path: The file.
        setting: Key that names the file; empty where a command made it and its folder.

    Raises:
        ConfigError: It is not, or it is missing.
    """
    where = f"{setting} ({path})" if setting else str(path)
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise ConfigError(
            "no such file",
            expected="a secret file",
            where=where,
            next_step=f"Bring it back, or correct {setting}."
            if setting
            else "Bring it back, or make the folder anew.",
        ) from None
    found = _what_is_wrong(status)
    if found:
        raise ConfigError(
            found,
            expected="a file of this user's own with mode 0600, and no link",
            where=where,
            next_step=f"chown it to this user and: chmod 600 {shlex.quote(str(path))}",
        )


def _what_is_wrong(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "not a plain file"
    if status.st_uid != os.geteuid():
        return "the file belongs to another user"
    if status.st_mode & OTHERS:
        return f"others may read it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""
