"""Read the arrays of an .npz from their headers, and images one by one, without unpacking all."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from metaward.errors import DataError

MAX_COLUMN_BYTES = 2**29
"""A column (labels, patients, sites) of more than 512 MiB is no column."""
_BOMB_BYTES, _BOMB_RATIO = 2**28, 500
"""Arrays above 256 MiB that shrank more than 500 times hold nothing but one repeated value."""
_BLOCK_BYTES = 2**22
"""Images are read in blocks of about 4 MiB."""


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and type of an array, read without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool

    @property
    def n_bytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzArchive:
    """An .npz file whose headers are known and whose arrays are read on demand.

    Nothing in the file is ever executed: arrays of Python objects (pickles) are refused.
    """

    def __init__(self, path: Path) -> None:
        """Read all headers.

        Raises:
            DataError: Not an .npz, damaged, or with arrays that can't be read safely.
        """
        self._path = path
        self.headers: dict[str, ArrayHeader] = {}
        with self._archive() as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    name = info.filename.removesuffix(".npy")
                    self.headers[name] = self._checked_header(archive, info, name)
        if not self.headers:
            raise self._damaged("no arrays in it")

    def where(self, name: str) -> str:
        """Return a place for messages: the file and the array."""
        return f"{self._path}, array '{name}'"

    def load(self, name: str) -> NDArray[np.generic]:
        """Return a whole array that is small.

        Raises:
            DataError: Larger than a column can be, or damaged.
        """
        header = self.headers[name]
        if header.n_bytes > MAX_COLUMN_BYTES:
            raise DataError(
                f"an array of {header.n_bytes / 2**20:.0f} MiB",
                expected=f"a column of at most {MAX_COLUMN_BYTES // 2**20} MiB",
                where=self.where(name),
                next_step="Check that the right array is named.",
            )
        with self._opened(name) as stream:
            values = np.frombuffer(self._read(stream, header.n_bytes, name), header.dtype)
        return values.reshape(header.shape, order="F" if header.fortran_order else "C")

    def rows(self, name: str, wanted: Sequence[int]) -> Iterator[NDArray[np.generic]]:
        """Give ``array[row]`` for ascending ``wanted`` rows, holding a few MiB at a time.

        Raises:
            DataError: The array is damaged, or its memory order does not allow reading by rows.
        """
        header = self.headers[name]
        if header.fortran_order and len(header.shape) > 1:
            if header.n_bytes > MAX_COLUMN_BYTES:
                raise DataError(
                    "an array in Fortran order, which can't be read image by image",
                    where=self.where(name),
                    next_step="Save it again with numpy.ascontiguousarray(images).",
                )
            array = self.load(name)
            yield from (array[row] for row in wanted)
            return
        row_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
        per_block = max(1, _BLOCK_BYTES // row_bytes)
        with self._opened(name) as stream:
            start, block = 0, np.empty((0, *header.shape[1:]), header.dtype)
            for row in wanted:
                while row >= start + len(block):
                    start += len(block)
                    n_rows = min(per_block, header.shape[0] - start)
                    raw = self._read(stream, n_rows * row_bytes, name)
                    block = np.frombuffer(raw, header.dtype).reshape(n_rows, *header.shape[1:])
                yield block[row - start]

    @contextlib.contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except zipfile.BadZipFile:
            raise self._damaged("not an .npz file, or damaged") from None
        except OSError as error:
            raise self._damaged(f"the file can't be read ({error.strerror})") from None

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        with self._archive() as archive, archive.open(f"{name}.npy") as stream:
            _read_header(stream)
            yield stream

    def _checked_header(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str
    ) -> ArrayHeader:
        try:
            with archive.open(info) as stream:
                header = _read_header(stream)
                offset = stream.tell()
        except (ValueError, EOFError, RuntimeError, NotImplementedError, zlib.error):
            raise self._damaged(f"array '{name}' can't be read") from None
        if header.dtype.hasobject:
            raise DataError(
                "an array of Python objects, which only running code from the file could read",
                expected="arrays of numbers or text",
                where=self.where(name),
                next_step="Save it as numbers or text, for example with array.astype(str).",
            )
        if offset + header.n_bytes != info.file_size:
            raise self._damaged(f"array '{name}' is not as long as its header says")
        ratio = info.file_size / max(info.compress_size, 1)
        if info.file_size > _BOMB_BYTES and ratio > _BOMB_RATIO:
            raise DataError(
                f"{info.compress_size / 2**20:.1f} MiB that unpack to "
                f"{info.file_size / 2**20:.0f} MiB of one repeated value",
                expected="images",
                where=self.where(name),
                next_step="Check where the file comes from.",
            )
        return header

    def _read(self, stream: IO[bytes], n_bytes: int, name: str) -> bytes:
        try:
            raw = stream.read(n_bytes)
        except (EOFError, zlib.error, zipfile.BadZipFile):
            raw = b""
        if len(raw) != n_bytes:
            raise self._damaged(f"array '{name}' is damaged or cut short")
        return raw

    def _damaged(self, found: str) -> DataError:
        return DataError(
            found,
            expected="an .npz file as numpy.savez writes it",
            where=str(self._path),
            next_step="Fetch or save the file again.",
        )


def _read_header(stream: IO[bytes]) -> ArrayHeader:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError("a version that only arrays with named fields use")
    if any(length < 0 for length in shape):
        raise ValueError("a negative length")
    return ArrayHeader(tuple(shape), dtype, fortran)
