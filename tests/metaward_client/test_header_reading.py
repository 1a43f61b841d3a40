import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_factory import TRANSFER_SYNTAXES, uid_of, write_dicom
from metaward_client.dicom import dicom_file
from metaward_client.dicom.header import Header
from metaward_client.dicom.header_reading import read_header
from metaward_client.dicom.refusals import EXPLANATIONS, RefusalReason
from metaward_client.dicom.silence import quiet_pydicom

BASIC_TEXT_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


def test_header_holds_what_joining_needs(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        patient_id=" p7 ",
        issuer="North",
        instance="one",
        series="s",
        study="t",
        modality="CT",
    )
    assert read_header(str(path)) == Header(
        sop_instance_uid=uid_of("one"),
        series_instance_uid=uid_of("s"),
        study_instance_uid=uid_of("t"),
        patient_id="p7",
        issuer="North",
        modality="CT",
        transfer_syntax="1.2.840.10008.1.2.1",
        frames=1,
    )


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_every_transfer_syntax_gives_the_same_header(tmp_path: Path, syntax: str) -> None:
    is_jpeg = syntax == "jpeg_baseline"
    pixels = np.zeros((64, 64), dtype=np.uint8 if is_jpeg else np.uint16)
    path = write_dicom(path=tmp_path / "a", pixels=pixels, transfer_syntax=syntax)
    header = read_header(str(path))
    assert isinstance(header, Header)
    assert header.transfer_syntax == TRANSFER_SYNTAXES[syntax]
    assert header.sop_instance_uid == uid_of("a")


def test_patient_id_is_read_in_its_character_set(tmp_path: Path) -> None:
    path = write_dicom(
        path=tmp_path / "a",
        elements={"SpecificCharacterSet": "ISO_IR 192", "PatientID": "Müller-7"},
    )
    header = read_header(str(path))
    assert isinstance(header, Header)
    assert header.patient_id == "Müller-7"


def with_raw_texts(path: Path, character_set: bytes, patient_id: bytes) -> str:
    """Write a file with texts that no writer would write: in implicit VR, all bytes as they are."""
    placeholder = "7" * 50
    write_dicom(
        path=path,
        transfer_syntax="implicit",
        elements={"SpecificCharacterSet": "ISO_IR 100", "PatientID": placeholder},
    )
    content = path.read_bytes()
    for group, element, old, new in (
        (0x08, 0x05, b"ISO_IR 100", character_set),
        (0x10, 0x20, placeholder.encode(), patient_id),
    ):
        tag, even = bytes([group, 0, element, 0]), new + b" " * (len(new) % 2)
        before = tag + struct.pack("<I", len(old)) + old
        assert content.count(before) == 1
        content = content.replace(before, tag + struct.pack("<I", len(even)) + even)
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("name", [b"unicode_escape", b"raw_unicode_escape", b"UTF-7", b"punycode"])
def test_a_character_set_that_dicom_does_not_have_is_bytes_one_by_one(
    tmp_path: Path, name: bytes
) -> None:
    raw = b"\xe9\\ud800"  # as some of Python's codecs read it, no database could hold it
    header = read_header(with_raw_texts(tmp_path / "a", name, raw))
    assert isinstance(header, Header)
    assert header.patient_id == raw.decode("latin-1")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        pytest.param(b"ISO_IR 192", b"M\xfcller", b"M\xf6ller", id="Latin 1 called UTF-8"),
        pytest.param(b"ISO_IR 13", b"A\xfe", b"A\xff", id="beyond the set"),
        pytest.param(
            b"ISO 2022 IR 87", b"\x1b$B\x7f\x7f\x1b(B", b"\x1b$B\x7f~\x1b(B", id="escapes"
        ),
    ],
)
def test_ids_that_their_character_set_cannot_read_stay_two_patients(
    tmp_path: Path, name: bytes, one: bytes, other: bytes
) -> None:
    with quiet_pydicom():
        headers = [
            read_header(with_raw_texts(tmp_path / str(number), name, raw))
            for number, raw in enumerate((one, other))
        ]
    ids = [header.patient_id for header in headers if isinstance(header, Header)]
    assert ids == [one.decode("latin-1"), other.decode("latin-1")]


@pytest.mark.parametrize("name", [b"ISO_IR 100", b"ISO IR 100", b"ISO-IR-100"])
def test_spellings_of_a_character_set_of_dicom_are_read_as_it(tmp_path: Path, name: bytes) -> None:
    with quiet_pydicom():
        header = read_header(with_raw_texts(tmp_path / "a", name, b"M\xfcller"))
    assert isinstance(header, Header)
    assert header.patient_id == "Müller"


@pytest.mark.parametrize("name", [b"punycode", b"ISO_IR 192"])
@pytest.mark.parametrize("raw", [b"\x1b" * 200_000, b"\xe9" * 1025, b"p" * 1025])
def test_an_identifier_longer_than_any_is_refused_before_it_is_decoded(
    tmp_path: Path, raw: bytes, name: bytes
) -> None:
    path = with_raw_texts(tmp_path / "a", name, raw)
    assert read_header(path) is RefusalReason.UNREADABLE_HEADER


def test_a_header_larger_than_the_first_read_is_read_all_the_same(tmp_path: Path) -> None:
    comment = "x" * (3 * dicom_file.HEAD_BYTES)
    path = write_dicom(path=tmp_path / "a", elements={"TextValue": comment})
    header = read_header(str(path))
    assert isinstance(header, Header)
    assert header.patient_id == "p1"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 4096, id="zeros"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 500, id="png"),
        pytest.param(b"key,label\n1.2.3,a\n", id="table"),
        pytest.param(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + b"\0" * 400, id="one element"),
        pytest.param(b"\x08\x00" + b"\xff" * 400, id="group 8 and noise"),
    ],
)
def test_what_is_not_dicom_is_called_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with quiet_pydicom():
        assert read_header(str(path)) is RefusalReason.NOT_DICOM


def test_a_file_without_preamble_is_dicom(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a", transfer_syntax="explicit")
    path.write_bytes(path.read_bytes()[132:])
    header = read_header(str(path))
    assert isinstance(header, Header)
    assert header.sop_instance_uid == uid_of("a")


def test_a_pipe_does_not_block_the_scan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_header(str(tmp_path / "pipe")) is RefusalReason.NOT_DICOM


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    assert read_header(str(tmp_path / "gone")) is RefusalReason.UNREADABLE_FILE


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PixelData": None, "SOPClassUID": BASIC_TEXT_REPORT}, RefusalReason.NO_PIXELS),
        ({"PixelData": None, "SOPClassUID": "1.3.6.1.4.1.9590.1"}, RefusalReason.NO_PIXELS),
        ({"PixelData": None}, RefusalReason.TRUNCATED_PIXELS),
        ({"PixelData": b""}, RefusalReason.TRUNCATED_PIXELS),
        ({"Rows": None}, RefusalReason.UNREADABLE_HEADER),
        ({"Rows": 0}, RefusalReason.UNREADABLE_HEADER),
        ({"Columns": None}, RefusalReason.UNREADABLE_HEADER),
        ({"Rows": 17}, RefusalReason.TRUNCATED_PIXELS),
        ({"NumberOfFrames": 2}, RefusalReason.TRUNCATED_PIXELS),
        ({"Rows": 65535, "Columns": 65535}, RefusalReason.TOO_LARGE),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, RefusalReason.DICOMDIR),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, RefusalReason.DERIVED_OBJECT),
    ],
)
def test_what_the_header_shows_is_refused_without_decoding(
    tmp_path: Path, elements: dict[str, Any], reason: RefusalReason
) -> None:
    path = write_dicom(path=tmp_path / "a", elements=elements)
    assert read_header(str(path)) is reason


def test_a_copy_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a")
    path.write_bytes(path.read_bytes()[:-1])
    assert read_header(str(path)) is RefusalReason.TRUNCATED_PIXELS


@pytest.mark.parametrize("syntax", ["rle", "jpeg_ls", "jpeg_2000", "jpeg_baseline"])
def test_a_compressed_copy_that_was_cut_short_is_refused(tmp_path: Path, syntax: str) -> None:
    pixels = np.arange(4096, dtype=np.uint8).reshape(64, 64)
    path = write_dicom(path=tmp_path / "a", transfer_syntax=syntax, pixels=pixels)
    content = path.read_bytes()
    for missing in (9, 20, 100):  # behind the last fragment come 8 bytes, which nobody needs
        path.write_bytes(content[:-missing])
        assert read_header(str(path)) is RefusalReason.TRUNCATED_PIXELS
    path.write_bytes(content[:-8])
    assert isinstance(read_header(str(path)), Header)


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big", "jpeg_baseline"])
def test_a_file_cut_before_its_pixels_is_never_taken_for_a_report(
    tmp_path: Path, syntax: str
) -> None:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    whole = write_dicom(path=tmp_path / "a", transfer_syntax=syntax, pixels=pixels).read_bytes()
    tag = b"\x7f\xe0\x00\x10" if syntax == "big" else b"\xe0\x7f\x10\x00"
    header, path = whole.index(tag), tmp_path / "b"
    damaged = {RefusalReason.TRUNCATED_PIXELS, RefusalReason.UNREADABLE_HEADER}
    with quiet_pydicom():
        for end in range(132, header):
            path.write_bytes(whole[:end])
            assert read_header(str(path)) in damaged
        path.write_bytes(whole[:header])
        assert read_header(str(path)) is RefusalReason.TRUNCATED_PIXELS


def test_a_compression_without_decoder_is_refused(tmp_path: Path) -> None:
    path = write_dicom(path=tmp_path / "a", transfer_syntax="jpeg_ls")
    jpeg_ls, without_decoder = b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.66"
    path.write_bytes(path.read_bytes().replace(jpeg_ls, without_decoder))
    assert read_header(str(path)) is RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX


def test_every_reason_is_explained_with_a_next_step() -> None:
    assert set(EXPLANATIONS) == set(RefusalReason)
    assert all(e.what.endswith(".") and e.next_step.endswith(".") for e in EXPLANATIONS.values())
