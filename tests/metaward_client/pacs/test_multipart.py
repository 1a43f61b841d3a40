from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faulty_pacs import multipart
from metaward_client.pacs.archive import NotFetched, PacsAway
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.multipart import LONGEST_PREAMBLE, copy_only_part


class Taken(BytesIO):
    def write(self, data: bytes, /) -> None:  # type: ignore[override]
        super().write(data)


def copied(kind: str, body: bytes, size: int = 7, *, shows_its_end: bool = True) -> bytes:
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    taken = Taken()
    copy_only_part(kind, chunks, taken, shows_its_end=shows_its_end)
    return taken.getvalue()


NEARLY = st.sampled_from([b"\r\n--limi", b"\r\n", b"--limit", b"\r", b"-", b"\r\n\r\n", b"\0"])


@given(st.lists(st.one_of(NEARLY, st.binary(max_size=9))), st.integers(1, 40))
def test_the_part_comes_out_byte_for_byte_however_the_answer_is_cut(
    pieces: list[bytes], size: int
) -> None:
    content = b"".join(pieces)
    if b"\r\n--limit" not in content:  # what a boundary is chosen to not be in
        reply = multipart(content)
        assert copied(reply.headers["Content-Type"], reply.body, size) == content


def test_an_answer_without_frame_is_taken_as_it_is() -> None:
    assert copied("application/dicom", b"DICM") == b"DICM"
    assert copied("application/dicom; transfer-syntax=1.2", b"DICM") == b"DICM"


def test_an_answer_that_neither_frame_nor_connection_shows_the_end_of_is_incomplete() -> None:
    with pytest.raises(PacsAway, match="incomplete"):
        copied("application/dicom", b"DICM", shows_its_end=False)
    reply = multipart(b"DICM")
    kind = reply.headers["Content-Type"]
    assert copied(kind, reply.body, shows_its_end=False) == b"DICM"


def test_a_quoted_boundary_and_text_before_it_are_understood() -> None:
    body = b"hello\r\n--a b\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--a b--"
    assert copied('multipart/related; boundary="a b"', body) == b"DICM"


@pytest.mark.parametrize("size", [1, 1000])
def test_an_answer_without_its_end_is_incomplete(size: int) -> None:
    reply = multipart(b"x" * 50)
    for length in range(len(reply.body) - 3):  # the line end behind the last boundary may lack
        with pytest.raises(PacsAway, match="incomplete"):
            copied(reply.headers["Content-Type"], reply.body[:length], size)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<p>Sign in"),
        ("multipart/related", b"no boundary"),
        ("", b""),
        ("multipart/related; boundary=b", b"x" * (LONGEST_PREAMBLE + 1000)),
        (multipart(b"1", b"2").headers["Content-Type"], multipart(b"1", b"2").body),
    ],
    ids=["html", "no boundary", "nothing", "no end of preamble", "two parts"],
)
def test_another_answer_is_not_understood(kind: str, body: bytes) -> None:
    with pytest.raises(NotFetched) as caught:
        copied(kind, body, 1000)
    assert caught.value.failure is Failure.NOT_UNDERSTOOD
