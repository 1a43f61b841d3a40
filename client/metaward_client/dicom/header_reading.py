"""Read one header, and refuse what the header alone shows to be no usable image."""

import re
from typing import TYPE_CHECKING, BinaryIO

from pydicom.charset import python_encoding
from pydicom.pixels.decoders.base import get_decoder

from metaward_client.dicom.dicom_file import (
    UNDEFINED_LENGTH,
    OpenedDicom,
    header_tags,
    open_dicom,
)
from metaward_client.dicom.header import Header, HeaderOutcome
from metaward_client.dicom.nesting import bounded_nesting
from metaward_client.dicom.object_kinds import (
    DERIVED_OBJECTS,
    MEDIA_STORAGE_DIRECTORY,
    is_image_class,
)
from metaward_client.dicom.refusals import RefusalReason, RefusedImage
from metaward_client.dicom.transfer_syntaxes import JPEG_EXTENDED_12_BIT, NATIVE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_FRAME_BYTES = 512 * 2**20
"""Uncompressed size of one frame: a 16-bit image of 16,000 x 16,000 pixels fits."""

MAX_NUMBER = 2**31 - 1
"""Of an integer string (DICOM PS3.5, 6.2). A larger one, in one file, does not fit the index."""

MAX_TEXT_BYTES = 1024
"""Of an identifier; the standard has 64 characters at most (PS3.5, 6.2). Some decoders take time
that grows with the square of the length."""

ITEM = b"\xfe\xff\x00\xe0"
"""Before the table of offsets, and before each fragment of compressed pixels (PS3.5, A.4)."""

ITEMS_LOOKED_AT = 8
"""The table, and then some: nearly every frame is one fragment."""

UNDECODED = "\N{REPLACEMENT CHARACTER}"
"""In the place of bytes that a character set does not have: all such bytes would be equal."""

_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "Modality",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "NumberOfFrames",
)
_CHARACTER_SET = 0x00080005
_TAGS = header_tags(_KEYWORDS)
_TAG = dict(zip(_KEYWORDS, _TAGS, strict=True))


def read_header(path: str) -> HeaderOutcome:
    """Read one header, or say why the file is no usable image. Never raises because of a file.

    Refused here is what the header alone shows: not DICOM, damaged, no pixels, a compression
    without decoder, a file that ends before its pixels do, a frame too large to decode.
    """
    try:
        with bounded_nesting(), open_dicom(path, tags=_TAGS) as opened:
            return _header_of(opened)
    except RefusedImage as refused:
        return refused.reason
    except Exception:  # noqa: BLE001 (pydicom raises anything; the reason is all we keep)
        return RefusalReason.UNREADABLE_HEADER


def _header_of(opened: OpenedDicom) -> HeaderOutcome:
    dataset = opened.dataset
    meta = getattr(dataset, "file_meta", None)
    sop_class = _text(dataset, "SOPClassUID")
    if MEDIA_STORAGE_DIRECTORY in (sop_class, str(meta and meta.get("MediaStorageSOPClassUID"))):
        return RefusalReason.DICOMDIR
    if opened.pixels is None or opened.pixels.length == 0:
        return without_pixels(dataset)
    if sop_class in DERIVED_OBJECTS:
        return RefusalReason.DERIVED_OBJECT
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    if rows < 1 or columns < 1:
        return RefusalReason.UNREADABLE_HEADER
    frames = max(1, _number(dataset, "NumberOfFrames"))
    bits_per_pixel = max(1, _number(dataset, "SamplesPerPixel")) * _number(dataset, "BitsAllocated")
    if rows * columns * bits_per_pixel > 8 * MAX_FRAME_BYTES:
        return RefusalReason.TOO_LARGE
    if not _is_decodable(opened, bits_stored=_number(dataset, "BitsStored")):
        return RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX
    if _is_truncated(opened, bits=rows * columns * bits_per_pixel * frames):
        return RefusalReason.TRUNCATED_PIXELS
    return Header(
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        series_instance_uid=_text(dataset, "SeriesInstanceUID"),
        study_instance_uid=_text(dataset, "StudyInstanceUID"),
        patient_id=_patient_text(dataset, "PatientID"),
        issuer=_patient_text(dataset, "IssuerOfPatientID"),
        modality=_text(dataset, "Modality"),
        transfer_syntax=opened.transfer_syntax,
        frames=frames,
    )


def without_pixels(dataset: "Dataset") -> RefusalReason:
    """Say whether an object has no pixels by its nature, or lost them."""
    sop_class = _text(dataset, "SOPClassUID")
    # A class behind which no instance comes may be half a class: the file was cut off there.
    if not sop_class or not _text(dataset, "SOPInstanceUID"):
        return RefusalReason.UNREADABLE_HEADER
    return RefusalReason.TRUNCATED_PIXELS if is_image_class(sop_class) else RefusalReason.NO_PIXELS


def _is_decodable(opened: OpenedDicom, *, bits_stored: int) -> bool:
    uid = opened.transfer_syntax
    assert opened.pixels is not None
    if uid in NATIVE:
        return opened.pixels.length != UNDEFINED_LENGTH
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        return False
    if uid == JPEG_EXTENDED_12_BIT and bits_stored > 8:
        # gdcm and pillow announce this syntax and decode 8 bits only.
        return "pylibjpeg" in decoder.available_plugins
    return decoder.is_available


def _is_truncated(opened: OpenedDicom, *, bits: int) -> bool:
    """Say whether pixels are fewer than the header promises, or their first frame is cut off."""
    assert opened.pixels is not None
    if opened.transfer_syntax not in NATIVE:
        return _has_cut_fragment(opened.stream, opened.pixels.offset, opened.stream_size)
    if _text(opened.dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    there = min(opened.pixels.length, opened.stream_size - opened.pixels.offset)
    return there * 8 < bits


def _has_cut_fragment(stream: BinaryIO, start: int, size: int) -> bool:
    """Say whether one of the first items of compressed pixels reaches beyond the end of the file.

    Of a copy that was cut short, a decoder would find it out: too late to use another copy.
    """
    for _ in range(ITEMS_LOOKED_AT):
        stream.seek(start)
        item = stream.read(8)
        if item[:4] != ITEM:
            return False
        start += len(item) + int.from_bytes(item[4:], "little")
        if start > size:
            return True
    return False


def _raw(dataset: "Dataset", keyword: str) -> object:
    element = dataset.get_item(_TAG[keyword])
    return None if element is None else element.value


def _text(dataset: "Dataset", keyword: str) -> str:
    """Return a UID or code string; these are ASCII."""
    value = _raw(dataset, keyword)
    if isinstance(value, bytes):
        return _bounded(value).decode("ascii", "replace").strip("\0 ")
    return _storable(str(value).strip()) if value is not None else ""


def _patient_text(dataset: "Dataset", keyword: str) -> str:
    """Return a text in the file's character set.

    pydicom takes the name of any of Python's codecs for a character set; some of those make texts
    that no database can hold, or take hours. Where a file names a set that DICOM does not have, or
    one that its bytes are not in, the text is its bytes one by one: the same bytes are then the
    same patient, and others another.
    """
    value = _raw(dataset, keyword)
    if not isinstance(value, bytes) or (value.isascii() and b"\x1b" not in value):
        return _text(dataset, keyword)
    bytewise = _bounded(value).decode("latin-1").strip("\0 ")
    if not _has_standard_character_set(dataset):
        return bytewise
    text = str(dataset[_TAG[keyword]].value or "").strip("\0 ")
    return bytewise if UNDECODED in text else _storable(text)


def _bounded(value: bytes) -> bytes:
    if len(value) > MAX_TEXT_BYTES:
        raise RefusedImage(RefusalReason.UNREADABLE_HEADER)
    return value


def _storable(text: str) -> str:
    """Return a text that UTF-8 can say; there are others, of half a character."""
    if len(text) > MAX_TEXT_BYTES:
        raise RefusedImage(RefusalReason.UNREADABLE_HEADER)
    text.encode()
    return text


def _plain_term(term: str) -> str:
    """Return a character set's name in one spelling: files write ISO_IR 100, ISO IR 100, ..."""
    return re.sub("[^A-Z0-9]+", " ", term.upper()).strip()


_CHARACTER_SETS = frozenset(map(_plain_term, python_encoding))
"""Those of DICOM (PS3.3, C.12.1.1.2)."""


def _has_standard_character_set(dataset: "Dataset") -> bool:
    element = dataset.get_item(_CHARACTER_SET)
    value = "" if element is None else element.value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ").split("\\")
    terms = [value] if isinstance(value, str) else value or ()
    return all(_plain_term(str(term)) in _CHARACTER_SETS for term in terms)


def _number(dataset: "Dataset", keyword: str) -> int:
    """Return an unsigned number or integer string; 0 when missing or senseless."""
    number = _whole_number(dataset, keyword)
    return number if 0 <= number <= MAX_NUMBER else 0


def _whole_number(dataset: "Dataset", keyword: str) -> int:
    element = dataset.get_item(_TAG[keyword])
    value = None if element is None else element.value
    if not isinstance(value, bytes):
        return int(value) if isinstance(value, int | str) else 0
    vr = getattr(element, "VR", None)
    if vr == "IS" or (vr is None and keyword == "NumberOfFrames"):
        text = value.strip(b"\0 ")
        return int(text) if text.isdigit() else 0
    little = bool(getattr(element, "is_little_endian", True))
    return int.from_bytes(value[:4], "little" if little else "big") if len(value) <= 4 else 0
