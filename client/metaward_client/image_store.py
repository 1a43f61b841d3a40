"""Decoded images on disk: one memory-mapped float16 array, so a second epoch reads no DICOM.

Two files per kind of preprocessing: ``images-<kind>-<generation>.npy`` and ``images-<kind>.json``,
which says which generation counts and what each row is. The index is replaced by a rename after
the array is safely on disk, so a process killed at any moment leaves the old state or the new one.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaward_client.dicom.cache_folder import readers_digest
from metaward_client.dicom.refusals import RefusalReason

WORTH_ANOTHER_TRY = (RefusalReason.DECODER_DIED, RefusalReason.UNREADABLE_FILE)
"""Not remembered: a decoder may have been short of memory, and permissions and disks are mended
without a change of size or time."""


@dataclass(frozen=True)
class ImageSettings:
    """What decides how an image looks.

    Attributes:
        size: Pixels, height and width.
        channels: 1 or 3.
        window: Centre and width, or None for the file's own.
        selection: Distinguishes tables of the same images (say, two label columns).
    """

    size: int
    channels: int
    window: tuple[float, float] | None
    selection: str

    def kind(self) -> str:
        """Return a name for these settings and the versions of everything that reads files."""
        parts = [self.size, self.channels, self.window, self.selection, readers_digest()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def image_bytes(self) -> int:
        """Return the size of one image."""
        return 2 * self.channels * self.size**2


@dataclass(frozen=True)
class StoreIndex:
    """What the rows of an array are.

    Attributes:
        generation: Names the array file.
        keys: Of the source file of each row.
        refused: Key of a file that cannot be decoded -> why.
    """

    generation: str
    keys: tuple[str, ...]
    refused: dict[str, RefusalReason]


class ImageStore:
    """The two files of one kind of preprocessing."""

    def __init__(self, folder: Path, settings: ImageSettings) -> None:
        self._folder = folder
        self._name = f"images-{settings.kind()}"
        self._shape = (settings.channels, settings.size, settings.size)

    def read(self) -> tuple[StoreIndex, NDArray[np.float16] | None]:
        """Return what is there; nothing where there is nothing, or where it is damaged."""
        try:
            content = json.loads((self._folder / f"{self._name}.json").read_text("utf-8"))
            refused = {key: RefusalReason(why) for key, why in content["refused"].items()}
            index = StoreIndex(str(content["generation"]), tuple(content["keys"]), refused)
            images = np.load(self._array_path(index.generation), mmap_mode="r")
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return StoreIndex("", (), {}), None
        if images.dtype != np.float16 or images.shape != (len(index.keys), *self._shape):
            return StoreIndex("", (), {}), None
        return index, images

    def write(
        self,
        rows: Sequence[tuple[NDArray[np.float16] | None, int]],
        keys: Sequence[str],
        refused: dict[str, RefusalReason],
    ) -> NDArray[np.float16]:
        """Put the images of ``rows`` on disk as the new generation, and return them."""
        descriptor, name = tempfile.mkstemp(
            prefix=f"{self._name}-", suffix=".npy", dir=self._folder
        )
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                header = {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)),
                    "fortran_order": False,
                    "shape": (len(rows), *self._shape),
                }
                np.lib.format.write_array_header_1_0(stream, header)
                for source, row in rows:
                    assert source is not None
                    stream.write(np.ascontiguousarray(source[row]).tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            generation = path.name.removeprefix(f"{self._name}-").removesuffix(".npy")
            self._commit(StoreIndex(generation, tuple(keys), refused))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._remove_other_generations(path)
        return np.asarray(np.load(path, mmap_mode="r"))

    def _commit(self, index: StoreIndex) -> None:
        content = {
            "generation": index.generation,
            "keys": index.keys,
            "refused": {
                key: why for key, why in index.refused.items() if why not in WORTH_ANOTHER_TRY
            },
        }
        descriptor, name = tempfile.mkstemp(prefix="index-", suffix=".tmp", dir=self._folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(self._folder / f"{self._name}.json")
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _remove_other_generations(self, current: Path) -> None:
        leftovers = [*self._folder.glob(f"{self._name}-*.npy"), *self._folder.glob("index-*.tmp")]
        for path in leftovers:
            if path != current:
                path.unlink(missing_ok=True)

    def _array_path(self, generation: str) -> Path:
        return self._folder / f"{self._name}-{generation}.npy"
