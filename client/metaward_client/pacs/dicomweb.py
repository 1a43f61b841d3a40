"""A PACS over DICOMweb: QIDO-RS to search, WADO-RS to fetch. Sends GET requests and nothing else.

Searches go through dicomweb-client. Instances do not: see :mod:`~metaward_client.pacs.multipart`.
Both share one session, which paces, follows no redirect, and knows no method but GET.
"""

from base64 import b64encode
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from requests import exceptions
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from metaward.errors import ConfigError, MetawardError
from metaward_client.pacs.archive import Instance, NotFetched, PacsAway, Sink, Study, StudyQuery
from metaward_client.pacs.credentials import Credentials
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.multipart import copy_only_part
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DicomwebSettings

ResultT = TypeVar("ResultT")
Row = dict[str, dict[str, Any]]  # DICOM JSON: tag -> {"vr": …, "Value": [anything]}

PAGE = 1000
"""Results asked for at once."""

SMALLEST_CAP = 100
"""A page with fewer results is the last one; one with more may have been cut short by the PACS,
so that another is asked for. No PACS known to us cuts at less."""

CHUNK = 2**20
"""Bytes read at once."""

LONGEST_WAIT = 300.0
"""Seconds that a PACS may ask us to wait."""

STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
SOP_CLASS, MODALITY, PATIENT_ID, STUDY_DATE = "00080016", "00080060", "00100020", "00080020"


class DicomwebArchive:
    """See :class:`~metaward_client.pacs.archive.Archive`."""

    def __init__(
        self, settings: DicomwebSettings, credentials: Credentials | None, pace: Pace
    ) -> None:
        self._url = _checked(settings.url)
        self._session = _session(settings, credentials, pace)
        self._timeout = settings.timeout_seconds
        self._was_let_in = False
        self._client = DICOMwebClient(
            self._url, session=self._session, timeout=self._timeout, permissive_uid=True
        )
        self._client.set_http_retry_params(retry=False)

    def check(self) -> None:
        """Search for one study."""
        try:
            self._ask(lambda: self._client.search_for_studies(limit=1))
        except NotFetched as error:
            failure = error.failure
        else:
            self._was_let_in = True
            return
        raise ConfigError(
            "the PACS does not let this account search for studies"
            if failure is Failure.FORBIDDEN
            else f"no DICOMweb service answers there ({failure.value})",
            expected="QIDO-RS at the URL with /studies behind it",
            where="data.pacs.url",
            next_step="Correct the URL, or ask whoever runs the PACS.",
        )

    def studies(self, query: StudyQuery) -> list[Study]:
        """QIDO-RS, search for studies."""
        filters = {
            "StudyInstanceUID": query.study_uid,
            "PatientID": query.patient_id,
            "ModalitiesInStudy": query.modality,
            "StudyDate": query.days(),
        }
        rows = self._pages(
            lambda offset: self._client.search_for_studies(
                limit=PAGE, offset=offset, search_filters=_given(filters)
            )
        )
        return [
            Study(*(_text(row, tag) for tag in (STUDY, PATIENT_ID, STUDY_DATE))) for row in rows
        ]

    def instances(self, study: Study, modality: str) -> list[Instance]:
        """QIDO-RS, search for the instances of a study."""
        try:
            rows = self._pages(
                lambda offset: self._client.search_for_instances(
                    study.uid,
                    limit=PAGE,
                    offset=offset,
                    fields=[SOP_CLASS, MODALITY],
                    search_filters=_given({"Modality": modality}),
                )
            )
        except NotFetched as error:
            if error.failure is Failure.GONE:
                return []
            raise
        tags = (SERIES, INSTANCE, SOP_CLASS, MODALITY)
        return [Instance(study, *(_text(row, tag) for tag in tags)) for row in rows]

    def retrieve(self, instance: Instance, sink: Sink) -> None:
        """WADO-RS, retrieve one instance in the transfer syntax that it is stored in."""
        place = f"studies/{instance.study.uid}/series/{instance.series_uid}"
        url = f"{self._url}/{place}/instances/{instance.sop_uid}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'

        def copy() -> None:
            with self._session.get(
                url, headers={"Accept": accept}, stream=True, timeout=self._timeout
            ) as answer:
                answer.raise_for_status()
                content_type = answer.headers.get("Content-Type", "")
                copy_only_part(content_type, answer.iter_content(CHUNK), sink)

        self._ask(copy)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _pages(self, search: Callable[[int], list[Row]]) -> list[Row]:
        """Return the results of all pages; ``search`` takes the number of results to skip."""
        rows: list[Row] = []
        before: list[Row] = []
        while True:
            offset = len(rows)
            page = self._ask(lambda: _rows(search(offset)))  # noqa: B023 (called at once)
            if page == before:  # the PACS ignores the offset, so it gave everything at once
                return rows
            rows += page
            if len(page) < SMALLEST_CAP:
                return rows
            before = page

    def _ask(self, request: Callable[[], ResultT]) -> ResultT:
        """Send one request; whatever goes wrong comes out without a word of what was said."""
        problem: Exception
        try:
            return request()
        except (MetawardError, PacsAway, NotFetched):
            raise
        except exceptions.HTTPError as error:
            problem = _of_status(error.response)
        except exceptions.SSLError:
            problem = PacsAway() if self._was_let_in else _tls_error()
        except exceptions.TooManyRedirects:
            problem = _wrong_url("the PACS sends us on to another URL, which is not followed")
        except (exceptions.InvalidURL, exceptions.MissingSchema, exceptions.InvalidSchema):
            problem = _wrong_url("not a URL")
        except (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError):
            problem = PacsAway(Failure.INCOMPLETE)
        except (exceptions.ConnectionError, exceptions.Timeout):
            problem = PacsAway()
        except Exception:  # noqa: BLE001 (an answer that is no JSON, or other JSON, raises anything)
            problem = NotFetched(Failure.NOT_UNDERSTOOD)
        raise problem


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
        return super().send(request, *args, **kwargs)


class _Authorization(AuthBase):
    """Adds the header that credentials amount to; requests' own takes no umlauts in a password."""

    def __init__(self, credentials: Credentials) -> None:
        both = f"{credentials.user}:{credentials.password}".encode()
        token = credentials.token
        self._value = f"Bearer {token}" if token else f"Basic {b64encode(both).decode('ascii')}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


def _session(
    settings: DicomwebSettings, credentials: Credentials | None, pace: Pace
) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # neither ~/.netrc nor a proxy: a PACS is in the house
    session.max_redirects = 0
    session.mount("https://", _PacedGets(pace))
    session.mount("http://", _PacedGets(pace))
    if settings.ca is not None:
        if not settings.ca.is_file():
            raise ConfigError(
                "no such file",
                expected="a certificate (PEM)",
                where=f"data.pacs.ca ({settings.ca})",
                next_step="Correct data.pacs.ca.",
            )
        session.verify = str(settings.ca)
    if credentials is not None:
        session.auth = _Authorization(credentials)
    return session


def _checked(url: str) -> str:
    """Return a URL that requests may be appended to. No message quotes it: it may hold secrets."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise _wrong_url("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _wrong_url("not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise _wrong_url("a user or password in the URL, where everybody can read it")
    if parts.query or parts.fragment:
        raise _wrong_url("something behind the path of the URL")
    return url.rstrip("/")


def _wrong_url(found: str) -> ConfigError:
    return ConfigError(
        found,
        expected="the root of the DICOMweb service, such as https://pacs.example/dicom-web",
        where="data.pacs.url",
        next_step="Correct the URL; a password belongs into the file of data.pacs.credentials.",
    )


def _tls_error() -> ConfigError:
    return ConfigError(
        "no trusted connection to the PACS: its certificate cannot be verified, or it speaks no "
        "TLS there",
        expected="a certificate for that host name, signed by an authority that is trusted",
        where="data.pacs.url",
        next_step="Name the hospital's own authority in data.pacs.ca, or correct the URL.",
    )


def _of_status(response: requests.Response) -> Exception:
    """Return what the status of an answer means; its text is not looked at."""
    match response.status_code:
        case 401:
            return ConfigError(
                "the PACS does not accept the credentials",
                expected="a user and password, or a token, that the PACS knows",
                where="data.pacs.credentials",
                next_step="Correct the file, or ask whoever runs the PACS.",
            )
        case 403:
            return NotFetched(Failure.FORBIDDEN)
        case 404 | 410:
            return NotFetched(Failure.GONE)
        case 408 | 429 | 502 | 503 | 504:
            wait = response.headers.get("Retry-After", "")
            return PacsAway(
                Failure.BUSY, min(float(wait), LONGEST_WAIT) if wait.isdecimal() else 0.0
            )
        case _:
            return NotFetched(Failure.PACS_ERROR)


def _given(filters: dict[str, str]) -> dict[str, str]:
    return {keyword: value for keyword, value in filters.items() if value}


def _rows(answer: object) -> list[Row]:
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise NotFetched(Failure.NOT_UNDERSTOOD)
    return answer


def _text(row: Row, tag: str) -> str:
    """Return the first value of an element; empty where there is none."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return value.strip("\0 ") if isinstance(value, str) else ""
