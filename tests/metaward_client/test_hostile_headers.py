"""Headers that were damaged, or made to harm: each is refused, within bounds."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_factory import write_dicom
from metaward_client.dicom import bounded_reader, dicom_file, header_reading
from metaward_client.dicom.file_workers import FileWorkers
from metaward_client.dicom.header import Header
from metaward_client.dicom.header_reading import read_header
from metaward_client.dicom.pixels import DecodeRequest, decode_outcome
from metaward_client.dicom.refusals import RefusalReason, RefusedImage
from metaward_client.dicom.silence import quiet_pydicom

META_OF_DEFLATED = (
    b"\0" * 128 + b"DICM\x02\x00\x10\x00UI" + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99"
)
META_OF_EXPLICIT = (
    b"\0" * 128 + b"DICM\x02\x00\x10\x00UI" + struct.pack("<H", 20) + b"1.2.840.10008.1.2.1\0"
)
EMPTY_ELEMENT = b"\x09\x00\x10\x00LO\x00\x00"


def _deflated(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return META_OF_DEFLATED + deflater.compress(body) + deflater.flush()


def _nested(depth: int) -> bytes:
    sequence = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return (sequence + item) * depth


def _below(frames: int, call: Callable[[], object]) -> object:
    """Return what a call gives at the end of a stack that is so much deeper."""
    return _below(frames - 1, call) if frames else call()


@pytest.mark.parametrize(("levels", "is_read"), [(32, True), (33, False), (190, False)])
def test_whether_a_nested_file_is_read_does_not_hang_on_who_reads_it(
    tmp_path: Path, levels: int, is_read: bool
) -> None:
    """Else others' files, which decide between this process and a worker, decide about it too."""
    path = write_dicom(path=tmp_path / "a")
    content = path.read_bytes()
    pixels = content.index(b"\xe0\x7f\x10\x00O")
    ends = (b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)) * levels
    private = _nested(levels).replace(b"\x08\x00\x40\x11", b"\x29\x00\x10\x10")
    path.write_bytes(content[:pixels] + private + ends + content[pixels:])
    request = DecodeRequest(str(path), 16, 1, None)
    with FileWorkers(1) as workers:
        headers = [
            read_header(str(path)),
            _below(500, lambda: read_header(str(path))),
            *(outcome for _, outcome in workers.run(read_header, [str(path)])),
        ]
        images = [
            decode_outcome(request),
            _below(500, lambda: decode_outcome(request)),
            *(outcome for _, outcome in workers.run(decode_outcome, [request])),
        ]
    assert [isinstance(header, Header) for header in headers] == [is_read] * 3
    assert [isinstance(image, np.ndarray) for image in images] == [is_read] * 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(
            _deflated(b"\0" * (bounded_reader.MAX_INFLATED_BYTES + 2)),
            RefusalReason.TOO_LARGE,
            id="60 kB that inflate beyond the bound",
        ),
        pytest.param(
            _deflated(EMPTY_ELEMENT * 1_000_000),
            RefusalReason.TOO_LARGE,
            id="a million empty elements, deflated",
        ),
        pytest.param(
            META_OF_EXPLICIT + EMPTY_ELEMENT * 1_000_000,
            RefusalReason.TOO_LARGE,
            id="a million empty elements",
        ),
        pytest.param(
            META_OF_EXPLICIT + _nested(5000),
            RefusalReason.UNREADABLE_HEADER,
            id="sequences nested 5000 deep",
        ),
        pytest.param(
            META_OF_EXPLICIT + b"\x10\x00\x20\x00UT\0\0\xf0\xff\xff\x7f" + b"x" * 100_000,
            RefusalReason.TOO_LARGE,
            id="a patient ID of 2 GB",
        ),
        pytest.param(
            META_OF_EXPLICIT, RefusalReason.UNREADABLE_HEADER, id="nothing but a preamble"
        ),
        pytest.param(_deflated(b"")[:-1], RefusalReason.UNREADABLE_HEADER, id="deflated and empty"),
        pytest.param(
            META_OF_DEFLATED + b"\xff" * 300, RefusalReason.UNREADABLE_HEADER, id="not deflated"
        ),
    ],
)
def test_a_hostile_header_is_refused_within_bounds(
    tmp_path: Path, content: bytes, reason: RefusalReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_reader, "MAX_READS", 20_000)  # as it is, but quicker
    path = tmp_path / "a"
    path.write_bytes(content)
    with quiet_pydicom():
        assert read_header(str(path)) is reason


def test_damaged_bytes_anywhere_never_raise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    original = write_dicom(
        path=tmp_path / "a", issuer="x", n_frames=1, pixels=_frames()
    ).read_bytes()
    path = tmp_path / "b"
    with quiet_pydicom():
        for _ in range(300):
            content = bytearray(original)
            for position in rng.integers(128, 900, 3):
                content[position] = int(rng.integers(256))
            path.write_bytes(content)
            assert isinstance(read_header(str(path)), Header | RefusalReason)


def _frames() -> Any:
    return np.zeros((1, 16, 16), dtype=np.uint16)


@pytest.mark.parametrize("error", [EOFError, struct.error, AssertionError, ZeroDivisionError])
def test_whatever_pydicom_raises_costs_one_file(
    tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error("PLANTED")

    path = str(write_dicom(path=tmp_path / "a"))
    monkeypatch.setattr(header_reading, "_number", fail)
    assert read_header(path) is RefusalReason.UNREADABLE_HEADER


def test_a_refusal_carries_no_exception_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(META_OF_EXPLICIT + _nested(5000))
    with quiet_pydicom(), pytest.raises(RefusedImage, match="unreadable_header") as caught:
        dicom_file.open_dicom(str(path), tags=[])
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
