"""Find every file under a folder, whatever the nesting, without following a loop for ever."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file under a root.

    Attributes:
        path: Relative to the root, with ``/``; bytes that are not UTF-8 are surrogate-escaped.
        size: Bytes.
        mtime_ns: Time of the last change, ns.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Walk:
    """What a walk found.

    Attributes:
        files: Sorted by path.
        unreadable: Files and folders that could not be looked at.
    """

    files: tuple[FoundFile, ...]
    unreadable: int


def walk_files(root: Path, *, leave_out: frozenset[Path] = frozenset()) -> Walk:
    """List the regular files under ``root``, following links.

    Each folder is entered once below each folder of the root: where these are labels, images that
    are linked into two of them have two labels, whichever is listed first. Pipes, sockets and
    devices are left out: opening one could block for ever.

    Args:
        root: The folder.
        leave_out: Resolved paths of files and folders that are not the site's images (its
            settings, its label table, the cache).
    """
    files: list[FoundFile] = []
    unreadable = 0
    entered: set[tuple[str, int, int]] = set()
    queue = [("", os.fspath(root))]
    skip = {os.fspath(path) for path in leave_out}
    skip_names = {path.name for path in leave_out}
    while queue:
        prefix, folder = queue.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116 (a string, for speed)
            folder_of_root = prefix.partition("/")[0]  # empty for the root, which is entered once
            places = [(name, status.st_dev, status.st_ino) for name in ("", folder_of_root)]
            if not entered.isdisjoint(places):
                continue
            entered.add(places[1])
            entries = list(_entries(folder))
        except OSError:
            unreadable += 1
            continue
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:  # a dangling link, or a link to itself
                unreadable += 1
                continue
            may_be_left_out = entry.name in skip_names or entry.is_symlink()
            if may_be_left_out and os.path.realpath(entry.path) in skip:
                continue
            if stat.S_ISDIR(status.st_mode):
                queue.append((f"{prefix}{entry.name}/", entry.path))
            elif stat.S_ISREG(status.st_mode):
                path = prefix + entry.name
                files.append(FoundFile(path, status.st_size, status.st_mtime_ns))
    files.sort(key=lambda file: file.path)
    return Walk(tuple(files), unreadable)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries
