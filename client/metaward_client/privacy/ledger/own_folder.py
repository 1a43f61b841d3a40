"""What the ledger needs of a folder: files of this user's own, that are on the disk when written.

The folder itself and everything in it may not be a symbolic link; the folders above it may.
"""

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger.disk import Disk, refusing

OTHERS = 0o077
"""Permission bits of the group and of everybody else."""

POLL_S = 0.02
OPENINGS = 100
"""Times that a file is opened which another process replaces before it can be looked at."""
FRESH = ".new"
"""Ends the name of a file that is being written."""


@dataclass(frozen=True)
class Folder:
    """An open folder of this user's own; see :func:`open_folder`."""

    path: Path
    descriptor: int
    disk: Disk

    @contextlib.contextmanager
    def open(self, name: str, flags: int) -> Iterator[int]:
        """Open a file of this user's own.

        Raises:
            PrivacyError: It is missing, a link, another's, or open to others.
        """
        path = self.path / name
        file, status = self._open_present(name, flags)
        try:
            _require_own_file(status, path)
            yield file
        finally:
            os.close(file)

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self.open(name, os.O_RDONLY) as file:
            return self.read_all(file, name)

    def read_all(self, file: int, name: str) -> bytes:
        """Return the content of an open file, from where it stands."""
        with refusing(self.path / name):
            pieces = []
            while piece := self.disk.read(file, 1 << 20):
                pieces.append(piece)
            return b"".join(pieces)

    def append(self, file: int, name: str, content: bytes) -> None:
        """Write at the end of a file that was opened to append; on the disk when it returns."""
        with refusing(self.path / name):
            self._write(file, content)

    def replace(self, name: str, content: bytes) -> None:
        """Put a file in place whole; on the disk, name and content, when it returns."""
        with refusing(self.path / name):
            file = self._create(name + FRESH)
            try:
                self._write(file, content)
            finally:
                os.close(file)
            self.disk.rename(self.descriptor, name + FRESH, name)
            self.disk.sync(self.descriptor)

    def truncate(self, file: int, name: str, size: int) -> None:
        """Shorten an open file; on the disk when it returns."""
        with refusing(self.path / name):
            self.disk.truncate(file, size)
            self.disk.sync(file)

    def sync(self) -> None:
        """Wait until the folder's names are on the disk."""
        with refusing(self.path):
            self.disk.sync(self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with refusing(self.path / name):
            self.disk.unlink(self.descriptor, name)

    def names(self) -> list[str]:
        """Return what stands in the folder."""
        with refusing(self.path):
            return sorted(os.listdir(self.descriptor))  # noqa: PTH208 (a descriptor)

    def has(self, name: str) -> bool:
        """Say whether something of that name stands in the folder; a dangling link does too."""
        return name in self.names()

    def lock(self, file: int, name: str, wait_s: float) -> None:
        """Take an open file for this process alone, until it is closed.

        Raises:
            PrivacyError: Another process has kept it for ``wait_s`` seconds.
        """
        path = self.path / name
        end = time.monotonic() + wait_s
        with refusing(path):
            while not _try_lock(file):
                if time.monotonic() >= end:
                    raise PrivacyError(
                        f"another process has used it for {wait_s:g} s",
                        expected="one round at a time",
                        where=str(path),
                        next_step="Nothing was released. Wait until the other round ends.",
                    )
                time.sleep(POLL_S)
            now = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            if not os.path.samestat(now, os.fstat(file)):
                raise _not_ours("another file was put in its place", path)

    def _create(self, name: str) -> int:
        """Open a new file; one that a crash left behind makes room."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            return self.disk.open(name, flags, self.descriptor)
        except FileExistsError:
            self.disk.unlink(self.descriptor, name)
            return self.disk.open(name, flags, self.descriptor)

    def _open_present(self, name: str, flags: int) -> tuple[int, os.stat_result]:
        """Open the file that has the name now, not one that :meth:`replace` took it from.

        What the file is like is looked at once: a moment later it may have lost its name.
        """
        with refusing(self.path / name):
            for _ in range(OPENINGS - 1):
                file = self.disk.open(name, flags, self.descriptor)
                status = os.fstat(file)
                if status.st_nlink > 0:
                    return file, status
                os.close(file)  # a round put another in its place meanwhile
            file = self.disk.open(name, flags, self.descriptor)
            return file, os.fstat(file)

    def _write(self, file: int, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self.disk.write(file, bytes(rest)) :]
        self.disk.sync(file)


@contextlib.contextmanager
def open_folder(path: Path, disk: Disk) -> Iterator[Folder]:
    """Open a folder of this user's own.

    Raises:
        PrivacyError: It is missing, a link, another's, or open to others.
    """
    with refusing(path):
        descriptor = disk.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with refusing(path):
            _require_own(os.fstat(descriptor), path, "0700 (chmod 700)")
        yield Folder(path, descriptor, disk)
    finally:
        os.close(descriptor)


def make_folder(path: Path, disk: Disk) -> None:
    """Make a folder, and those above it, for this user alone; leave one that stands as it is."""
    with refusing(path):
        _make(path, disk)
        _sync_parent(path, disk)  # also of one that a crash left behind


def _make(path: Path, disk: Disk) -> None:
    if path.is_symlink() or path.exists():
        return
    _make(path.parent, disk)
    disk.mkdir(path)
    _sync_parent(path, disk)


def _sync_parent(path: Path, disk: Disk) -> None:
    parent = disk.open(path.parent.resolve(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.sync(parent)
    finally:
        os.close(parent)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _require_own_file(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_ours("not a regular file", path)
    if status.st_nlink != 1:
        raise _not_ours("a file with a second name (hard link), or with none", path)
    _require_own(status, path, "0600 (chmod 600)")


def _require_own(status: os.stat_result, path: Path, mode: str) -> None:
    if status.st_uid != os.geteuid():
        raise _not_ours("it belongs to another user", path)
    if status.st_mode & OTHERS:
        raise PrivacyError(
            f"open to other users (mode {stat.S_IMODE(status.st_mode):04o})",
            expected=f"mode {mode}",
            where=str(path),
            next_step="Nothing was released. Find out who could have changed it; then close it.",
        )


def _not_ours(found: str, path: Path) -> PrivacyError:
    return PrivacyError(
        found,
        expected="a file or folder of the user that runs metaward",
        where=str(path),
        next_step="Nothing was released. Find out who put it there, and bring back the real one.",
    )
