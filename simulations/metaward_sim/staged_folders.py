"""Folders that appear whole or not at all: written beside their place, renamed at the end."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaward.errors import ConfigError, DataError

_PREFIX, _SUFFIX = ".metaward-", ".partial"


@dataclass(frozen=True)
class StagedFolders:
    """A hidden folder beside the final ones; what is in it counts for nothing until the end."""

    root: Path

    def path(self, name: str) -> Path:
        """Return where to write the folder that will be called ``name``; it exists."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextlib.contextmanager
def staged_folders(
    out: Path, names: Sequence[str], *, force: bool, may_replace: Callable[[Path], bool]
) -> Iterator[StagedFolders]:
    """Let the caller write the folders ``out/<name>``; all are renamed into place at the end.

    Where ``out`` is not there yet, it appears with all its folders in one step. Otherwise each
    folder appears in one step, one after the other.

    On an error, and on an interruption, nothing is left under the final names. After a hard kill
    a hidden folder is left, which counts for nothing and which the next call removes.

    Args:
        out: Parent of the folders; made if it is missing.
        names: Names of all folders that will be written.
        force: Replace folders that are there already.
        may_replace: Says whether a folder may be replaced, so that ``force`` deletes only what
            this program wrote.

    Raises:
        ConfigError: A folder is there already, or ``out`` can't be written to.
        DataError: The disk is full, or fails.
    """
    try:
        _check_free(out, names, force=force, may_replace=may_replace)
        is_new = not out.exists()
        beside = out.parent if is_new else out
        beside.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(beside)
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=beside))
    except OSError as error:
        raise ConfigError(
            f"the folder cannot be written to ({error.strerror})",
            expected="a folder that this user may write to",
            where=str(out),
            next_step="Choose another --out, or change the permissions.",
        ) from None
    try:
        with _locked(staging):
            staged = StagedFolders(staging / "new")
            yield staged
            if is_new:
                staged.root.rename(out)
            else:
                for name in names:
                    _move_into_place(staged.root / name, out / name, staging)
    except OSError as error:
        raise DataError(
            f"writing failed ({error.strerror or type(error).__name__}); nothing was kept",
            where=str(out),
            next_step="Check the free space and the disk, then run the command again.",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_free(
    out: Path, names: Sequence[str], *, force: bool, may_replace: Callable[[Path], bool]
) -> None:
    taken = [name for name in names if (out / name).exists()]
    if not taken:
        return
    foreign = [name for name in taken if not may_replace(out / name)]
    if foreign:
        raise ConfigError(
            f"{_listed(foreign)} already there, and not written by this command",
            where=str(out),
            next_step="Choose another --out or --name; nothing was changed.",
        )
    if not force:
        raise ConfigError(
            f"{_listed(taken)} already there",
            where=str(out),
            next_step="Choose another --out, or replace what is there with --force.",
        )


def _listed(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"


def _move_into_place(source: Path, target: Path, staging: Path) -> None:
    if target.exists():
        target.rename(staging / f"old-{target.name}")
    source.rename(target)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, so that leftovers can be told from live work."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _remove_leftovers(out: Path) -> None:
    if sys.platform == "win32":  # No such locks there: leave them to the user.
        return
    import fcntl

    for folder in out.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # Locked: another process is writing it.
            with (folder / "lock").open("r") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
