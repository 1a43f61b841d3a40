"""Write single images as DICOM files: one header per scanner, patched for every image.

The constant attributes of a scanner are encoded once with pydicom; an image then costs a dozen
short elements and its pixels. The same input gives the same bytes: UIDs are name-based (UUID
version 5 under the root 2.25, PS3.5 section B.2) and no clock is read.
"""

import hashlib
import re
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from metaward_sim.dicom_header import SLICE_THICKNESS_MM, constant_header
from metaward_sim.image_record import ImageRecord
from metaward_sim.pixel_encoding import compressed_frame, native_bytes
from metaward_sim.scanner_style import TRANSFER_SYNTAX_UID, ScannerStyle

__all__ = ["DicomWriter", "ScannerStyle", "WrittenImage", "patient_id_of", "write_image"]

_NAMESPACE = uuid.UUID("5b6f9f2c-0f6e-5d0a-9c53-6d2f6d8a7b11")
_IMPLEMENTATION_UID = f"2.25.{_NAMESPACE.int}"
_IMPLEMENTATION_NAME = b"METAWARD_SIM"
_LONG_LENGTH_VRS = (b"OB", b"OW")

_SOP_INSTANCE_UID = 0x00080018
_PATIENT_NAME = 0x00100010
_PATIENT_ID = 0x00100020
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_INSTANCE_NUMBER = 0x00200013
_IMAGE_POSITION = 0x00200032
_FRAME_OF_REFERENCE_UID = 0x00200052
_ROWS = 0x00280010
_COLUMNS = 0x00280011
_PIXEL_DATA = 0x7FE00010
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SEQUENCE_DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


@dataclass(frozen=True)
class WrittenImage:
    """The UIDs that an image got; (0008,0018) is what a label table refers to."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class _Template:
    """A scanner's constant elements, encoded, in ascending order of tag."""

    elements: tuple[tuple[int, bytes], ...]
    has_plane: bool


class DicomWriter:
    """Encodes the images of one institution; keeps one encoded header per scanner style."""

    def __init__(self, *, institution: str, uid_seed: str, synthetic: bool) -> None:
        """Prepare a writer.

        Args:
            institution: Institution Name; also parts the UIDs of two hospitals.
            uid_seed: Parts the UIDs of two data sets of one hospital.
            synthetic: The images are drawn by a program; every file then says so, and patients
                are called ``Synthetic^<id>``. Otherwise the name stays empty.
        """
        self._institution = institution
        self._synthetic = synthetic
        self._namespace = uuid.uuid5(_NAMESPACE, f"{uid_seed}\0{institution}")
        self._templates: dict[ScannerStyle, _Template] = {}

    def encode(
        self, record: ImageRecord, style: ScannerStyle, *, number: int
    ) -> tuple[WrittenImage, bytes]:
        """Return the UIDs and the bytes of a complete DICOM file.

        Args:
            record: The image. Its pixels must fit the style.
            style: The scanner.
            number: Instance Number, from 1, different for every image of the hospital.

        Raises:
            ValueError: The pixels do not fit the style.
        """
        template = self._template(style)
        patient = patient_id_of(record.patient)
        uids = self._uids(record, style, patient, number)
        elements = list(template.elements)
        elements += self._own_elements(record, style, uids, patient, number, template.has_plane)
        elements.sort()
        body = b"".join([encoded for _, encoded in elements])
        return uids, _preamble(style, uids.sop_instance_uid) + body + _pixel_data(record, style)

    def _uids(
        self, record: ImageRecord, style: ScannerStyle, patient: str, number: int
    ) -> WrittenImage:
        study = f"study\0{patient}\0{record.study}"
        content = hashlib.sha256(record.pixels.tobytes()).hexdigest()
        return WrittenImage(
            sop_instance_uid=self._uid(f"image\0{number}\0{record.pixels.shape}\0{content}"),
            series_instance_uid=self._uid(f"series\0{style}\0{study}"),
            study_instance_uid=self._uid(study),
        )

    def _uid(self, name: str) -> str:
        return f"2.25.{uuid.uuid5(self._namespace, name).int}"

    def _own_elements(
        self,
        record: ImageRecord,
        style: ScannerStyle,
        uids: WrittenImage,
        patient: str,
        number: int,
        has_plane: bool,
    ) -> list[tuple[int, bytes]]:
        name = f"Synthetic^{patient}"[:64] if self._synthetic else ""
        values = [
            (_SOP_INSTANCE_UID, b"UI", uids.sop_instance_uid.encode()),
            (_PATIENT_NAME, b"PN", name.encode()),
            (_PATIENT_ID, b"LO", patient.encode()),
            (_STUDY_INSTANCE_UID, b"UI", uids.study_instance_uid.encode()),
            (_SERIES_INSTANCE_UID, b"UI", uids.series_instance_uid.encode()),
            (_INSTANCE_NUMBER, b"IS", str(number).encode()),
            (_ROWS, b"US", struct.pack("<H", record.pixels.shape[0])),
            (_COLUMNS, b"US", struct.pack("<H", record.pixels.shape[1])),
        ]
        if has_plane:
            position = f"0\\0\\{number * SLICE_THICKNESS_MM:g}"
            frame = self._uid(f"frame\0{uids.series_instance_uid}")
            values.append((_IMAGE_POSITION, b"DS", position.encode()))
            values.append((_FRAME_OF_REFERENCE_UID, b"UI", frame.encode()))
        implicit = style.transfer_syntax == "implicit-le"
        return [(tag, _element(tag, vr, value, implicit=implicit)) for tag, vr, value in values]

    def _template(self, style: ScannerStyle) -> _Template:
        if style not in self._templates:
            self._templates[style] = _encode_template(style, self._institution, self._synthetic)
        return self._templates[style]


def write_image(
    path: Path,
    record: ImageRecord,
    style: ScannerStyle,
    *,
    institution: str,
    uid_seed: str = "",
    number: int = 1,
    synthetic: bool = False,
) -> WrittenImage:
    """Write one image to ``path``; see `DicomWriter` for the arguments."""
    writer = DicomWriter(institution=institution, uid_seed=uid_seed, synthetic=synthetic)
    uids, content = writer.encode(record, style, number=number)
    path.write_bytes(content)
    return uids


def patient_id_of(patient: str) -> str:
    r"""Return the Patient ID (0010,0020) for an id: itself, or a digest if DICOM can't hold it.

    A value of VR LO has at most 64 characters, no backslash and no control character, and its
    outer spaces carry no meaning.

    >>> patient_id_of("HAM_0000550")
    'HAM_0000550'
    >>> patient_id_of("ward\\7")
    'sha256-7f007aab722b364afaeef2ee'
    """
    fits = len(patient) <= 64 and patient == patient.strip()
    if fits and not re.search(r"[\\\x00-\x1f\x7f]", patient):
        return patient
    return f"sha256-{hashlib.sha256(patient.encode()).hexdigest()[:24]}"


def _encode_template(style: ScannerStyle, institution: str, synthetic: bool) -> _Template:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_data_element

    header = constant_header(style, institution=institution, synthetic=synthetic)
    elements = []
    for element in header:
        buffer = DicomBytesIO()
        buffer.is_little_endian = True
        buffer.is_implicit_VR = style.transfer_syntax == "implicit-le"
        write_data_element(buffer, element, ["utf-8"])
        elements.append((int(element.tag), buffer.getvalue()))
    return _Template(tuple(elements), has_plane="ImageOrientationPatient" in header)


def _preamble(style: ScannerStyle, sop_instance_uid: str) -> bytes:
    """Return the 128 zero bytes, the magic word and the file meta group (PS3.10 section 7.1)."""
    values = [
        (0x00020001, b"OB", b"\0\1"),
        (0x00020002, b"UI", style.object_class.uid.encode()),
        (0x00020003, b"UI", sop_instance_uid.encode()),
        (0x00020010, b"UI", TRANSFER_SYNTAX_UID[style.transfer_syntax].encode()),
        (0x00020012, b"UI", _IMPLEMENTATION_UID.encode()),
        (0x00020013, b"SH", _IMPLEMENTATION_NAME),
    ]
    meta = b"".join(_element(tag, vr, value, implicit=False) for tag, vr, value in values)
    length = _element(0x00020000, b"UL", struct.pack("<L", len(meta)), implicit=False)
    return b"\0" * 128 + b"DICM" + length + meta


def _pixel_data(record: ImageRecord, style: ScannerStyle) -> bytes:
    if not style.is_encapsulated:
        vr = b"OW" if style.bits_allocated == 16 else b"OB"
        implicit = style.transfer_syntax == "implicit-le"
        return _element(_PIXEL_DATA, vr, native_bytes(record.pixels, style), implicit=implicit)
    from pydicom.encaps import encapsulate

    head = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED_LENGTH)
    return head + encapsulate([compressed_frame(record.pixels, style)]) + _SEQUENCE_DELIMITER


def _element(tag: int, vr: bytes, value: bytes, *, implicit: bool) -> bytes:
    """Encode one little-endian data element, padded to an even length (PS3.5 section 7.1)."""
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    group, number = tag >> 16, tag & 0xFFFF
    if implicit:
        return struct.pack("<HHL", group, number, len(value)) + value
    if vr in _LONG_LENGTH_VRS:
        return struct.pack("<HH2sHL", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value
