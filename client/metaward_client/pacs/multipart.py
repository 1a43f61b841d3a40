"""Copy the one part of a WADO-RS answer to a file, chunk by chunk.

dicomweb-client parses each instance and holds it in memory several times over; writing its
parse back would not give the same bytes. An answer to one instance has one part (DICOM PS3.18,
10.4.3), so that cutting off its frame is all there is to do.
"""

from collections.abc import Iterable, Iterator
from email.message import Message

from metaward_client.pacs.archive import NotFetched, PacsAway, Sink
from metaward_client.pacs.failures import Failure

LONGEST_PREAMBLE = 64 * 2**10
"""Bytes before the part's content: boundary and headers."""


def copy_only_part(
    content_type: str, chunks: Iterable[bytes], sink: Sink, *, shows_its_end: bool
) -> None:
    """Copy the content of an answer.

    Args:
        content_type: Of the answer; ``application/dicom`` is taken without a frame, as some
            servers send it.
        chunks: The body of the answer.
        sink: Where to.
        shows_its_end: Whether the chunks raise where the body breaks off; if not, only the frame
            can show that it is whole.

    Raises:
        NotFetched: It is something else, or has several parts.
        PacsAway: The end is missing, or nothing would show that it is.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_type() == "application/dicom":
        if not shows_its_end:
            raise PacsAway(Failure.INCOMPLETE)
        for chunk in chunks:
            sink.write(chunk)
        return
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/related" or not boundary:
        raise NotFetched(Failure.NOT_UNDERSTOOD)
    _copy_framed(b"--" + boundary.encode("latin-1", "replace"), iter(chunks), sink)


def _copy_framed(marker: bytes, chunks: Iterator[bytes], sink: Sink) -> None:
    held = _after_headers(marker, chunks)
    end = b"\r\n" + marker
    while (found := held.find(end)) < 0:
        sure = len(held) - len(end) + 1  # the rest may be the beginning of the end
        if sure > 0:
            sink.write(bytes(held[:sure]))
            del held[:sure]
        held += _next(chunks)
    sink.write(bytes(held[:found]))
    del held[: found + len(end)]
    while len(held) < 2:
        held += _next(chunks)
    if held[:2] != b"--":  # another part
        raise NotFetched(Failure.NOT_UNDERSTOOD)


def _after_headers(marker: bytes, chunks: Iterator[bytes]) -> bytearray:
    """Return what follows the headers of the part, as far as it has come."""
    held = bytearray()
    while True:
        start = held.find(marker)
        blank = held.find(b"\r\n\r\n", start) if start >= 0 else -1
        if blank >= 0:
            del held[: blank + 4]
            return held
        if len(held) > LONGEST_PREAMBLE:
            raise NotFetched(Failure.NOT_UNDERSTOOD)
        held += _next(chunks)


def _next(chunks: Iterator[bytes]) -> bytes:
    for chunk in chunks:
        return chunk
    raise PacsAway(Failure.INCOMPLETE)
