"""Open one DICOM file and read its header, within bounds on work and memory.

A header may be built to hurt, and pydicom has no limits of its own. So it reads a short start from
memory, and everything else through a :class:`~metaward_client.dicom.bounded_reader.BoundedReader`.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, cast

from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from metaward_client.dicom.bounded_reader import BoundedReader, Deflated
from metaward_client.dicom.refusals import RefusalReason, RefusedImage
from metaward_client.dicom.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

HEAD_BYTES = 16 * 2**10
"""Read at once; nearly every header fits."""

UNDEFINED_LENGTH = 0xFFFFFFFF

PREAMBLE = 128
_PIXEL_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""Group 0002 or 0008, little endian, or 0008 big endian: how a file without preamble starts."""


@dataclass
class PixelElement:
    """Where the pixels are.

    Attributes:
        keyword: ``PixelData`` or one of the two float ones.
        vr: As in the file; None under implicit VR.
        offset: Of the value, in :attr:`OpenedDicom.stream`.
        length: Bytes; ``UNDEFINED_LENGTH`` when encapsulated.
    """

    keyword: str
    vr: str | None
    offset: int
    length: int


class _PixelFinder:
    """pydicom's ``stop_when``: stops at the pixels and remembers where they are."""

    def __init__(self, reader: "BoundedReader | BytesIO") -> None:
        self._tell = reader.tell
        self.element: PixelElement | None = None

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXEL_KEYWORDS:
            self.element = PixelElement(_PIXEL_KEYWORDS[tag], vr, self._tell(), length)
            return True
        return False


@dataclass
class OpenedDicom(AbstractContextManager["OpenedDicom"]):
    """A DICOM file whose header is read and whose pixels are not.

    Attributes:
        dataset: The elements that were asked for.
        transfer_syntax: UID; what the encoding amounts to where the file does not say.
        stream: The file, or the inflated body.
        stream_size: Bytes in ``stream``.
        pixels: None when there are none.
    """

    dataset: "Dataset"
    transfer_syntax: str
    stream: BinaryIO
    stream_size: int
    pixels: PixelElement | None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.stream.close()


def header_tags(keywords: Iterable[str]) -> list[BaseTag]:
    """Return the tags of DICOM keywords."""
    return [Tag(keyword) for keyword in keywords]


def open_dicom(path: str, *, tags: list[BaseTag]) -> OpenedDicom:
    """Open a file and read the named elements of its header.

    Args:
        path: The file.
        tags: What to read; the rest is skipped.

    Raises:
        RefusedImage: ``not_dicom``, ``unreadable_file``, ``unreadable_header`` or ``too_large``;
            without the text of the exception behind it, which may quote the file.
    """
    stream: BinaryIO | None = None
    try:
        stream = _open_regular(path)
        return _parse(stream, tags)
    except RefusedImage as refused:
        reason = refused.reason
    except (OSError, MemoryError) as error:
        reason = (
            RefusalReason.TOO_LARGE
            if isinstance(error, MemoryError)
            else RefusalReason.UNREADABLE_FILE
        )
    if stream is not None:
        stream.close()
    raise RefusedImage(reason)


def _open_regular(path: str) -> BinaryIO:
    # O_NONBLOCK: a pipe that took the file's place since the walk must not block the open.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedImage(RefusalReason.NOT_DICOM)
    return os.fdopen(descriptor, "rb")


def _parse(stream: BinaryIO, tags: list[BaseTag]) -> OpenedDicom:
    head = stream.read(HEAD_BYTES)
    has_preamble = _looks_like_dicom(head)
    size = os.fstat(stream.fileno()).st_size
    if DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.encode() not in head:
        # So few bytes cannot do harm, and parsing them in memory is half again as fast.
        quick = _quick_parse(head, tags, has_preamble)
        if quick is not None and (quick[1] is not None or size <= len(head)):
            return _opened(quick[0], stream, size, quick[1], has_preamble)
    stream.seek(0)
    return _bounded_parse(stream, size, tags, has_preamble)


def _quick_parse(
    head: bytes, tags: list[BaseTag], has_preamble: bool
) -> "tuple[Dataset, PixelElement | None] | None":
    """Parse the start of a file; None where that fails."""
    reader = BytesIO(head)
    finder = _PixelFinder(reader)
    try:
        dataset = read_partial(
            reader,
            finder,
            force=not has_preamble,
            specific_tags=cast("list[BaseTag | int]", tags),
        )
    except Exception:  # noqa: BLE001 (the bounded parse finds out why)
        return None
    return dataset, finder.element


def _bounded_parse(
    stream: BinaryIO, size: int, tags: list[BaseTag], has_preamble: bool
) -> OpenedDicom:
    reader = BoundedReader(stream)
    finder = _PixelFinder(reader)
    specific = cast("list[BaseTag | int]", tags)
    failed: RefusalReason | None = None
    try:
        dataset: Dataset = read_partial(
            cast(BinaryIO, reader), finder, force=not has_preamble, specific_tags=specific
        )
    except Deflated as deflated:
        stream.close()
        stream, size = BytesIO(deflated.body), len(deflated.body)
        reader = BoundedReader(stream)
        finder = _PixelFinder(reader)
        try:
            dataset = read_dataset(
                cast(BinaryIO, reader), False, True, stop_when=finder, specific_tags=specific
            )
        except Exception:  # noqa: BLE001 (pydicom raises anything; the reason is all we keep)
            failed = RefusalReason.UNREADABLE_HEADER
    except Exception:  # noqa: BLE001 (likewise)
        failed = RefusalReason.UNREADABLE_HEADER if has_preamble else RefusalReason.NOT_DICOM
    if reader.exhausted:
        failed = RefusalReason.TOO_LARGE
    if failed is not None:
        raise RefusedImage(failed)
    return _opened(dataset, stream, size, finder.element, has_preamble)


def _opened(
    dataset: "Dataset",
    stream: BinaryIO,
    size: int,
    pixels: PixelElement | None,
    has_preamble: bool,
) -> OpenedDicom:
    if not has_preamble and not _is_plausible(dataset):
        raise RefusedImage(RefusalReason.NOT_DICOM)
    deflated = isinstance(stream, BytesIO)
    syntax = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN if deflated else _transfer_syntax(dataset)
    return OpenedDicom(dataset, syntax, stream, size, pixels)


def _looks_like_dicom(head: bytes) -> bool:
    """Return whether there is a preamble; refuse what is not DICOM at all."""
    if head[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return True
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    implicit_length = int.from_bytes(head[4:8], "little")
    if head[:2] not in _FIRST_GROUPS or not (explicit or implicit_length < 1024):
        raise RefusedImage(RefusalReason.NOT_DICOM)
    return False


def _is_plausible(dataset: "Dataset") -> bool:
    """Say whether something without preamble has a SOP class: zeros and noise do not."""
    element = dataset.get_item(0x00080016)
    value = element.value if element is not None else None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return UID(text.strip("\0 ")).is_valid and text.startswith("1.2.840.10008.")


def _transfer_syntax(dataset: "Dataset") -> str:
    declared = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if declared:
        return str(declared)
    implicit, little = dataset.original_encoding
    if implicit:
        return IMPLICIT_VR_LITTLE_ENDIAN
    return EXPLICIT_VR_LITTLE_ENDIAN if little else EXPLICIT_VR_BIG_ENDIAN
