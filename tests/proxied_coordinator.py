"""What a hospital sees of a coordinator: a TLS server with a certificate of the kit's authority."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from metaward_server.coordinator.certificates import (
    Issued,
    new_authority,
    new_server_certificate,
)

NOW = datetime.now(UTC)
AUTHORITY = new_authority("demo", NOW)


@contextmanager
def coordinator(
    folder: Path, server: Issued, *, fleet: int = 415, control: int = 404, ahead_s: float = 0.0
) -> Iterator[str]:
    """Answer as a coordinator's proxy does; give its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.send_response_only(fleet if "/fleet/" in self.path else control)
            when = datetime.now(UTC) + timedelta(seconds=ahead_s)
            self.send_header("Date", format_datetime(when, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

    (folder / "s.crt").write_bytes(server.certificate)
    (folder / "s.key").write_bytes(server.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s.crt", folder / "s.key")
    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        httpd.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused greetings
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def server(at: datetime = NOW) -> Issued:
    return new_server_certificate(AUTHORITY, "127.0.0.1", at)
