"""A PACS for tests that answers as it is told, over DICOMweb, with the standard library alone."""

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from metaward_client.pacs.pace import Clock


@dataclass
class FakeClock:
    """Time that passes when somebody sleeps, and not otherwise."""

    time: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def clock(self) -> Clock:
        return Clock(now=lambda: self.time, sleep=self.sleep)


@dataclass
class Reply:
    """One answer.

    Attributes:
        headers: Date and Content-Length are added unless here; one that is empty is not sent.
        cut: Bytes of the body that are sent, before the connection ends.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


def multipart(*parts: bytes, boundary: str = "limit") -> Reply:
    """Return instances as WADO-RS sends them."""
    frame = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"\r\n".join(frame + part for part in parts) + f"\r\n--{boundary}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return Reply(body=body, headers={"Content-Type": kind})


def bare(image: bytes, length: str | None = None, cut: int | None = None) -> Reply:
    """Return an instance without a frame; ``length`` is Content-Length, and empty for none."""
    headers = {"Content-Type": "application/dicom"}
    headers |= {} if length is None else {"Content-Length": length}
    return Reply(body=image, headers=headers, cut=len(image) if cut is None else cut)


def in_chunks(image: bytes, cut: int | None = None) -> Reply:
    """Return an instance without a frame, in two chunks and an empty last one."""
    half = len(image) // 2
    pieces = (image[:half], image[half:], b"")
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    headers = {"Content-Type": "application/dicom", "Transfer-Encoding": "chunked"}
    return Reply(body=body, headers={**headers, "Content-Length": ""}, cut=cut)


def rows(*elements: dict[str, str]) -> Reply:
    """Return what QIDO-RS finds: tag -> value for each."""
    content = [{tag: {"vr": "UI", "Value": [value]} for tag, value in e.items()} for e in elements]
    return Reply(body=json.dumps(content).encode(), headers={"Content-Type": "application/json"})


@dataclass
class FaultyPacs:
    """A running one.

    Attributes:
        answer: Gives the reply to a path (below the root) and its query.
        requests: Methods and paths, in order.
    """

    url: str
    answer: Callable[[str, dict[str, list[str]]], Reply]
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def n_images_asked_for(self) -> int:
        return sum("/instances/" in path for _, path in self.requests)


@contextlib.contextmanager
def running_faulty_pacs(certificate: Path | None = None) -> Iterator[FaultyPacs]:
    """Start one, with TLS where there is a certificate, and stop it at the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            pacs.requests.append((self.command, parts.path))
            pacs.headers.append(dict(self.headers))
            reply = pacs.answer(parts.path.removeprefix("/root"), parse_qs(parts.query))
            self.send_response_only(reply.status)
            usual = {"Date": self.date_time_string(), "Content-Length": str(len(reply.body))}
            for name, value in {**usual, **reply.headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut])
            self.close_connection = reply.cut is not None

        do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815 (names of the library)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # whoever speaks no TLS, or hangs up

    with Server(("127.0.0.1", 0), Handler) as server:
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = "https"
        pacs = FaultyPacs(f"{scheme}://localhost:{server.server_port}/root", lambda *_: Reply(404))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield pacs
        finally:
            server.shutdown()
            thread.join()
