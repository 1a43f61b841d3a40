"""A file that gives a parser so many reads and bytes, and no more.

A DICOM header may be built to hurt: millions of empty elements, sequences nested five thousand
deep, an element of 4 GB, 80 kB that inflate to gigabytes.
"""

import zlib
from typing import BinaryIO

MAX_READS = 500_000
"""Reads while parsing one header: a multi-frame header of 5,000 frames needs half of it. About
four seconds of pydicom."""

MAX_HEADER_BYTES = 64 * 2**20
"""Bytes taken in while parsing one header; elements that nobody asked for are skipped, not read."""

MAX_INFLATED_BYTES = 64 * 2**20
"""Size to which a deflated file may inflate."""


class TooMuchError(Exception):
    """The header asks for more work or memory than one file may take."""


class Deflated(Exception):  # noqa: N818 (control flow: the body has to be read another way)
    """The rest of the file is deflated; ``body`` is what it inflates to."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


class BoundedReader:
    """The part of a file object that pydicom's parser uses, with a budget.

    Attributes:
        exhausted: The budget was used up. pydicom turns some exceptions into others on their way;
            this tells them apart.
    """

    name = ""  # pydicom puts a file's name into warnings

    def __init__(self, stream: BinaryIO) -> None:
        self._read = stream.read
        self.seek = stream.seek
        self.tell = stream.tell
        self._reads_left = MAX_READS
        self._bytes_left = MAX_HEADER_BYTES
        self.exhausted = False

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes.

        Raises:
            TooMuchError: The budget does not allow it.
            Deflated: Everything that is left was asked for; so pydicom does with a deflated body.
        """
        if size < 0:  # only where the rest of the file is deflated
            raise Deflated(self._inflate())
        self._reads_left -= 1
        if self._reads_left < 0 or size > self._bytes_left:
            self.exhausted = True
            raise TooMuchError
        data = self._read(size)
        self._bytes_left -= len(data)
        return data

    def _inflate(self) -> bytes:
        deflated = self._read(MAX_INFLATED_BYTES + 1)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = inflater.decompress(deflated, MAX_INFLATED_BYTES + 1)
        if max(len(deflated), len(inflated)) > MAX_INFLATED_BYTES:
            self.exhausted = True
            raise TooMuchError
        return inflated
