"""How we speak to a PACS over DICOMweb: its URL, and the session that all requests go through."""

import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from metaward.errors import ConfigError
from metaward_client.pacs.archive import NotFetched
from metaward_client.pacs.credentials import Credentials
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DicomwebSettings

LARGEST_PAGE = 64 * 2**20
"""Bytes of one page of a listing, decompressed; a thousand results have one or two million."""


class _PacedGets(HTTPAdapter):
    """Sends GET requests at a pace. Anything else would change the PACS."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def send(
        self,
        request: requests.PreparedRequest,
        *args: Any,  # handed on as they are
        **kwargs: Any,
    ) -> requests.Response:
        assert request.method == "GET"
        # dicomweb-client leaves the port out of it, and some proxies then answer for another host.
        request.headers.pop("Host", None)
        self._pace.wait()
        answer = super().send(request, *args, **kwargs)
        if not kwargs.get("stream") or answer.is_redirect:  # requests reads these into memory
            answer.raw = _BoundedBody(answer.raw)
        return answer


class _BoundedBody:
    """The body of an answer that is held in memory, which ends at a bound with an exception."""

    def __init__(self, body: Any) -> None:  # of urllib3, which requests does not declare
        self._body = body

    def __getattr__(self, name: str) -> Any:  # whatever else urllib3 has
        return getattr(self._body, name)

    def stream(self, size: int, *, decode_content: bool) -> Iterator[bytes]:
        """Give the next bytes, decompressed."""
        n_bytes = 0
        for chunk in self._body.stream(size, decode_content=decode_content):
            n_bytes += len(chunk)
            if n_bytes > LARGEST_PAGE:
                self._body.close()
                raise NotFetched(Failure.LISTING_TOO_LONG)
            yield chunk


class _Authorization(AuthBase):
    """Adds the header that credentials amount to; requests' own takes no umlauts in a password."""

    def __init__(self, credentials: Credentials) -> None:
        both = f"{credentials.user}:{credentials.password}".encode()
        token = credentials.token
        self._value = f"Bearer {token}" if token else f"Basic {b64encode(both).decode('ascii')}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


def session_with(
    settings: DicomwebSettings, credentials: Credentials | None, pace: Pace
) -> requests.Session:
    """Return what all requests to a PACS go through.

    Raises:
        ConfigError: There is no such certificate, or it cannot be read.
    """
    session = requests.Session()
    session.trust_env = False  # neither ~/.netrc nor a proxy: a PACS is in the house
    session.max_redirects = 0
    session.mount("https://", _PacedGets(pace))
    session.mount("http://", _PacedGets(pace))
    if settings.ca is not None:
        _require_certificate(settings.ca)
        session.verify = str(settings.ca)
    if credentials is not None:
        session.auth = _Authorization(credentials)
    return session


def _require_certificate(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except FileNotFoundError:
        found = "no such file"
    except OSError as error:  # of ssl too
        is_ssl = isinstance(error, ssl.SSLError)
        found = "no certificate in the file" if is_ssl else os.strerror(error.errno or 0)
    else:
        return
    raise ConfigError(
        found,
        expected="a certificate (PEM, which begins with -----BEGIN CERTIFICATE-----)",
        where=f"data.pacs.ca ({path})",
        next_step="Correct data.pacs.ca; from DER: openssl x509 -inform der -in FILE -out FILE.pem",
    )


def checked_url(url: str) -> str:
    """Return a URL that requests may be appended to. No message quotes it: it may hold secrets."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise wrong_url("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong_url("not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise wrong_url("a user or password in the URL, where everybody can read it")
    if parts.query or parts.fragment:
        raise wrong_url("something behind the path of the URL")
    return parts.geturl().rstrip("/ ")  # without blanks before it, and capitals in its scheme


def is_unknown_host(error: requests.RequestException) -> bool:
    """Say whether there is no connection because nobody has an address for the host."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, socket.gaierror):
        cause = cause.__cause__ or cause.__context__
    return cause is not None and cause.errno != socket.EAI_AGAIN


def wrong_url(found: str) -> ConfigError:
    """Return what is said about a URL."""
    return ConfigError(
        found,
        expected="the root of the DICOMweb service, such as https://pacs.example/dicom-web",
        where="data.pacs.url",
        next_step="Correct the URL; a password belongs into the file of data.pacs.credentials.",
    )
