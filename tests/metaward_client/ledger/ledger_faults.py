"""Disks that fail, for the tests of the ledger.

A disk counts its effects. ``FaultyDisk`` fails at the n-th, or from it on, with an error of the
operating system. ``StoppingDisk`` stops the machine before the n-th, perhaps in the midst of a
write. ``PowerDisk`` also knows what was synced, and can lose the rest.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from metaward_client.privacy.ledger.disk import Disk


@dataclass(frozen=True)
class Effect:
    """What is about to happen; file and content of a write only."""

    name: str
    file: int = -1
    content: bytes = b""


class CountingDisk(Disk):
    """Counts effects, and has a hook before each."""

    def __init__(self) -> None:
        self.effects: list[str] = []

    def before(self, effect: Effect) -> None:
        """Called before an effect; may raise."""

    def _count(self, name: str, file: int = -1, content: bytes = b"") -> None:
        self.effects.append(name)
        self.before(Effect(name, file, content))

    def open(self, path: str | Path, flags: int, folder: int | None = None) -> int:
        self._count("create" if flags & os.O_CREAT else "open")
        return super().open(path, flags, folder)

    def read(self, file: int, size: int) -> bytes:
        self._count("read")
        return super().read(file, size)

    def write(self, file: int, content: bytes) -> int:
        self._count("write", file, content)
        return super().write(file, content)

    def sync(self, descriptor: int) -> None:
        self._count("sync", descriptor)  # and no more: what is lost without it, PowerDisk knows

    def truncate(self, file: int, size: int) -> None:
        self._count("truncate")
        super().truncate(file, size)

    def rename(self, folder: int, old: str, new: str) -> None:
        self._count("rename")
        super().rename(folder, old, new)

    def unlink(self, folder: int, name: str) -> None:
        self._count("unlink")
        super().unlink(folder, name)

    def mkdir(self, path: Path) -> None:
        self._count("mkdir")
        super().mkdir(path)


class FaultyDisk(CountingDisk):
    """Fails at the n-th effect (from 1), or from there on, with an error number."""

    def __init__(self, at: int, error: int, *, for_ever: bool = False) -> None:
        super().__init__()
        self.at, self.error, self.for_ever = at, error, for_ever

    def before(self, effect: Effect) -> None:
        n = len(self.effects)
        if n == self.at or (self.for_ever and n > self.at):
            raise OSError(self.error, f"{os.strerror(self.error)} ({effect.name})")


class Stopped(BaseException):
    """The machine stopped."""


def stop_here() -> None:
    raise Stopped


class StoppingDisk(CountingDisk):
    """Stops the machine before the n-th effect; of a write, ``torn`` bytes are done."""

    def __init__(self, at: int, torn: int = 0, stop: Callable[[], None] = stop_here) -> None:
        super().__init__()
        self.at, self.torn, self.stop = at, torn, stop

    def before(self, effect: Effect) -> None:
        if len(self.effects) >= self.at:
            if effect.name == "write" and self.torn:
                os.write(effect.file, effect.content[: self.torn])
            self.stop()


class PowerDisk(StoppingDisk):
    """A disk with a cache: what was not synced may be lost, names and content apart.

    Every file has an identity of its own: the system gives inode numbers away again.
    """

    def __init__(self, root: Path, at: int, torn: int = 0) -> None:
        super().__init__(at, torn)
        self.root = root
        self._next = count()
        self._ids: dict[int, int] = {}
        self._content: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        self._folders: dict[Path, set[Path]] = {}
        self._newest = Path()
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._sync_names(folder)

    def open(self, path: str | Path, flags: int, folder: int | None = None) -> int:
        known = set() if folder is None else set(os.listdir(folder))  # noqa: PTH208
        file = super().open(path, flags, folder)
        if flags & os.O_CREAT and str(path) not in known:
            self._ids[os.fstat(file).st_ino] = identity = next(self._next)
            self._content[identity] = b""
            self._newest = Path(f"/proc/self/fd/{file}").readlink()
        return file

    def rename(self, folder: int, old: str, new: str) -> None:
        super().rename(folder, old, new)
        self._newest = Path(f"/proc/self/fd/{folder}").readlink() / new

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self._sync_names(path)
        else:
            self._content[self._ids[os.fstat(descriptor).st_ino]] = path.read_bytes()

    def _sync_names(self, folder: Path) -> None:
        self._names[folder] = {path.name: self._seen(path) for path in _files(folder)}
        self._folders[folder] = _folders(folder)

    def lose_power(self, *, names: str, content: str) -> None:
        """Leave on the disk what was synced, and of the rest what is asked for.

        Args:
            names: ``"all"`` names that were not synced, the ``"newest"`` only, or ``"none"``.
            content: ``"all"``, ``"half"`` or ``"none"`` of what was not synced.
        """
        folders = [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]
        for folder in folders:
            synced_names = self._names.get(folder, {})
            now = {path.name: self._seen(path) for path in _files(folder)}
            cached = {self._seen(path): path.read_bytes() for path in _files(folder)}
            for path in _files(folder):
                path.unlink()
            newest = {name: i for name, i in now.items() if folder / name == self._newest}
            after = {"all": now, "newest": synced_names | newest, "none": synced_names}[names]
            for name, identity in after.items():
                synced = self._content[identity]
                left = {
                    "all": cached.get(identity, synced),
                    "half": _half(synced, cached.get(identity, synced)),
                    "none": synced,
                }[content]
                (folder / name).write_bytes(left)
                (folder / name).chmod(0o600)
        if names != "all":
            for folder in folders:
                if folder != self.root and folder not in self._folders.get(folder.parent, set()):
                    shutil.rmtree(folder, ignore_errors=True)

    def _seen(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self._ids:
            self._ids[inode] = next(self._next)
            self._content[self._ids[inode]] = path.read_bytes()
        return self._ids[inode]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def _folders(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.is_dir()}


def _half(synced: bytes, cached: bytes) -> bytes:
    if not cached.startswith(synced):
        return cached
    return cached[: (len(synced) + len(cached)) // 2]
