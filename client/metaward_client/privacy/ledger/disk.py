"""Every effect on the disk, in one place, so that a test can stop the machine at each of them."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from metaward.errors import PrivacyError


class Disk:
    """The effects, as the operating system has them."""

    def open(self, path: str | Path, flags: int, folder: int | None = None) -> int:
        """Open a file (mode 0600 where it is new); never through a symbolic link."""
        # O_NONBLOCK: a pipe in the place of a file must not keep us waiting.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(path, flags, 0o600, dir_fd=folder)

    def read(self, file: int, size: int) -> bytes:
        """Read up to ``size`` bytes."""
        return os.read(file, size)

    def write(self, file: int, content: bytes) -> int:
        """Write some of the bytes; return how many."""
        return os.write(file, content)

    def sync(self, descriptor: int) -> None:
        """Wait until a file's content, or a folder's names, are on the disk."""
        os.fsync(descriptor)

    def truncate(self, file: int, size: int) -> None:
        """Shorten a file."""
        os.ftruncate(file, size)

    def rename(self, folder: int, old: str, new: str) -> None:
        """Put a file in the place of another, at once."""
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)

    def unlink(self, folder: int, name: str) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=folder)

    def mkdir(self, path: Path) -> None:
        """Make a folder that only this user may use."""
        path.mkdir(mode=0o700)


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a sentence and a next step."""
    try:
        yield
    except OSError as error:
        found, next_step = _EXPLAINED.get(error.errno or 0, (error.strerror or "error", CHECK))
        raise PrivacyError(
            found, where=str(path), next_step=f"Nothing was released. {next_step}"
        ) from None


CHECK = "Check the disk and the path."
WRITABLE = "Make it readable and writable for the user that runs metaward."
ROOM = "Make room on the disk; then start again, no round is lost or charged twice."
NO_LINK = "Put the real file or folder in its place, or name the real one in site.yaml."
_EXPLAINED = {
    errno.ENOENT: (
        "the ledger or a part of it is missing",
        "Bring it back as it was after the last round; `metaward site ledger create` is only for "
        "patients of whom nothing was ever released.",
    ),
    errno.ELOOP: ("a symbolic link", NO_LINK),
    errno.ENOTDIR: ("a symbolic link, or not a folder", NO_LINK),
    errno.EISDIR: ("a folder in the place of a file", CHECK),
    errno.ENXIO: ("not a regular file", CHECK),
    errno.EACCES: ("this user may not use it", WRITABLE),
    errno.EPERM: ("this user may not use it", WRITABLE),
    errno.EROFS: ("the disk is read-only", WRITABLE),
    errno.ENOSPC: ("the disk is full", ROOM),
    errno.EDQUOT: ("this user's share of the disk is full", ROOM),
    errno.EFBIG: ("the file may not grow", ROOM),
    errno.EIO: ("the disk reports an error", "Have the disk examined before anything else."),
}
