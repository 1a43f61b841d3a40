"""What can be wrong with a disk or a path: full, read-only, closed to this user, not what it is."""

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from metaward.errors import ConfigError

FULL_BYTES = 2**20
LEAST_FREE_BYTES = 2**30
READ_ONLY = "the disk is read-only"
MOUNT = "Mount it writable again; a disk that became so by itself may be failing."
_EXPLAINED = {
    errno.ENOSPC: ("the disk is full", "Make room."),
    errno.EDQUOT: ("this user's share of the disk is full", "Make room."),
    errno.EROFS: (READ_ONLY, MOUNT),
}
_PATHS = {
    errno.EEXIST: "something else stands there",
    errno.ENOTDIR: "a file stands where a folder should be",
    errno.EISDIR: "a folder stands where a file should be",
    errno.ENOENT: "there is no such file or folder, and none was made",
    errno.ENAMETOOLONG: "the name is too long for the disk",
    errno.ELOOP: "links lead in a circle",
}


@dataclass(frozen=True)
class DiskTrouble:
    """What is wrong, and what to do.

    Attributes:
        stops_work: Nothing can be written any more.
    """

    said: str
    next_step: str
    stops_work: bool = True


def existing_part(path: Path) -> Path:
    """Return the path, or of the folders above it the nearest that is there for this user."""
    return next(at for at in (path, *path.absolute().parents) if os.access(at, os.F_OK))


def disk_trouble(path: Path) -> DiskTrouble | None:
    """Return what is wrong with the disk that a path is, or will be, on."""
    folder = existing_part(path)
    free = shutil.disk_usage(folder).free
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return DiskTrouble(READ_ONLY, MOUNT)
    if not os.access(folder, os.W_OK):
        return DiskTrouble(f"this user may not write to {folder}", "chown or chmod it.")
    if free < FULL_BYTES:
        return DiskTrouble("the disk is full", "Make room.")
    if free < LEAST_FREE_BYTES:
        return DiskTrouble(f"only {free / 2**20:.0f} MiB are free", "Make room in time.", False)
    return None


def require_writable(folder: Path, *, what: str) -> None:
    """Check, before hours of work, that the folder named by ``--out`` takes a file.

    Args:
        folder: Where the file will be.
        what: It, for the message: "the page".

    Raises:
        ConfigError: The disk is full or read-only, or the folder closed to this user.
    """
    trouble = disk_trouble(folder)
    if trouble is not None and trouble.stops_work:
        raise ConfigError(
            trouble.said,
            expected=f"a folder for {what}",
            where=f"--out {folder}",
            next_step=f"{trouble.next_step} Or name another place with --out.",
        )


def explained(error: OSError) -> ConfigError | None:
    """Return what a user can act on: a full disk, a closed path, an impossible one; or nothing."""
    named = isinstance(error.filename, str | bytes | os.PathLike)  # a number: an open file's
    if isinstance(error, PermissionError) and named:
        return ConfigError(
            "this user may not read or write it",
            expected="a path that is open to the user whose command it is",
            where=str(Path(os.fsdecode(error.filename)).absolute()),
            next_step="Run the command as the user to whom it belongs (sudo -u …), in a folder that"
            " is open to both; or chown or chmod it.",
        )
    if error.errno in _PATHS and named:
        return ConfigError(
            _PATHS[error.errno],
            expected="a path that can be read or made as the command needs it",
            where=str(Path(os.fsdecode(error.filename)).absolute()),
            next_step="Correct the path, or name another one.",
        )
    if error.errno not in _EXPLAINED:
        return None
    said, step = _EXPLAINED[error.errno]
    where = str(Path(os.fsdecode(error.filename)).parent) if named else ""
    return ConfigError(
        said,
        expected="a disk that can be written to",
        where=where,
        next_step=f"{step} Then do the same again: what was begun is whole or is not there.",
    )
