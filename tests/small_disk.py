"""A disk that is really full, or really read-only: a small file system in memory. Needs root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_a_disk = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
PAGE = 4096


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system of its own."""

    path: Path

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self, pages_left: int = 0) -> None:
        """Write until nothing more fits, then give some pages back."""
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(PAGE))
            except OSError:
                size = file.tell() - PAGE * pages_left
            file.truncate(size)

    def free(self) -> None:
        self._filler.unlink()

    def mount(self, option: str) -> None:
        """Make it read-only ("ro") or writable again ("rw")."""
        subprocess.run(["mount", "-o", f"remount,{option}", self.path], check=True)


@contextmanager
def small_disk(path: Path, size: str = "2m") -> Iterator[SmallDisk]:
    """Mount one at ``path``, which is made."""
    path.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size},mode=700"]
    subprocess.run(["mount", *options, "metaward-test", path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
