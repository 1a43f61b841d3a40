"""A PACS over DICOMweb: QIDO-RS to search, WADO-RS to fetch. Sends GET requests and nothing else.

Searches go through dicomweb-client. Instances do not: see :mod:`~metaward_client.pacs.multipart`.
Both share one session, which paces, follows no redirect, and knows no method but GET.
"""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import requests
from dicomweb_client import DICOMwebClient
from requests import exceptions

from metaward.errors import ConfigError, MetawardError
from metaward_client.pacs.archive import (
    LONGEST_LISTING,
    LONGEST_VALUE,
    Instance,
    NotFetched,
    PacsAway,
    Sink,
    Study,
    StudyQuery,
)
from metaward_client.pacs.credentials import Credentials
from metaward_client.pacs.dicomweb_access import (
    checked_url,
    is_unknown_host,
    session_with,
    wrong_url,
)
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.multipart import copy_only_part
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DicomwebSettings

ResultT = TypeVar("ResultT")
Row = dict[str, dict[str, Any]]  # DICOM JSON: tag -> {"vr": …, "Value": [anything]}

PAGE = 1000
"""Results asked for at once."""

SMALLEST_CAP = 100
"""A page with fewer results is the last one, unless the PACS says that it holds some back; one
with more may have been cut short without a word."""

CHUNK = 2**20
"""Bytes read at once."""

PARTIAL = 206
"""Status of an answer that holds a part of what was asked for."""

LONGEST_WAIT = 300.0
"""Seconds that a PACS may ask us to wait."""

STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
SOP_CLASS, MODALITY, PATIENT_ID, STUDY_DATE = "00080016", "00080060", "00100020", "00080020"


class DicomwebArchive:
    """See :class:`~metaward_client.pacs.archive.Archive`."""

    def __init__(
        self, settings: DicomwebSettings, credentials: Credentials | None, pace: Pace
    ) -> None:
        self._url = checked_url(settings.url)
        self._session = session_with(settings, credentials, pace)
        self._timeout = settings.timeout_seconds
        self._session.hooks["response"] = [self._look_at]
        self._was_let_in = False
        self._holds_back = False  # results of the last page
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
            ),
            (STUDY, PATIENT_ID, STUDY_DATE),
        )
        return [Study(*row) for row in rows]

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
                ),
                (SERIES, INSTANCE, SOP_CLASS, MODALITY),
            )
        except NotFetched as error:
            if error.failure is Failure.GONE:
                return []
            raise
        return [Instance(study, *row) for row in rows]

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
                chunks = answer.iter_content(CHUNK)
                copy_only_part(content_type, chunks, sink, shows_its_end=_shows_its_end(answer))

        self._ask(copy)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _pages(
        self, search: Callable[[int], list[Row]], tags: tuple[str, ...]
    ) -> list[tuple[str, ...]]:
        """Return these elements of all results; ``search`` takes the number of results to skip."""
        found: dict[tuple[str, ...], None] = {}
        offset = 0
        while True:
            page = self._ask(lambda: _rows(search(offset)))  # noqa: B023 (called at once)
            n_before = len(found)
            found.update(dict.fromkeys(tuple(_text(row, tag) for tag in tags) for row in page))
            offset += len(page)
            if offset > LONGEST_LISTING:
                raise NotFetched(Failure.LISTING_TOO_LONG)
            # A PACS that ignores the offset gives everything again, and in any order.
            nothing_new = len(found) == n_before
            if nothing_new or (len(page) < SMALLEST_CAP and not self._holds_back):
                return list(found)

    def _look_at(self, answer: requests.Response, *_: object, **__: object) -> None:
        """Take what the head of an answer says about its body.

        Raises:
            NotFetched: It is neither an answer nor an error, such as a redirect to nowhere.
        """
        self._holds_back = _holds_back(answer)
        is_told = answer.status_code >= 400 or answer.is_redirect  # and turned into a reason later
        if not is_told and answer.status_code not in (200, 204, PARTIAL):
            answer.close()
            raise NotFetched(Failure.NOT_UNDERSTOOD)

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
            problem = wrong_url("the PACS sends us on to another URL, which is not followed")
        except (exceptions.InvalidURL, exceptions.MissingSchema, exceptions.InvalidSchema):
            problem = wrong_url("not a URL")
        except (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError):
            problem = PacsAway(Failure.INCOMPLETE)
        except (exceptions.ConnectionError, exceptions.Timeout) as error:
            is_wrong = not self._was_let_in and is_unknown_host(error)
            problem = wrong_url("no such host") if is_wrong else PacsAway()
        except Exception:  # noqa: BLE001 (an answer that is no JSON, or other JSON, raises anything)
            problem = NotFetched(Failure.NOT_UNDERSTOOD)
        raise problem


def _tls_error() -> ConfigError:
    return ConfigError(
        "no trusted connection to the PACS: its certificate cannot be verified, or it speaks no "
        "TLS there",
        expected="a certificate for that host name, signed by an authority that is trusted",
        where="data.pacs.url",
        next_step="Name the hospital's own authority in data.pacs.ca, or correct the URL.",
    )


def _shows_its_end(answer: requests.Response) -> bool:
    """Say whether the body is all there is, and has a length or chunks.

    Then urllib3 raises where it breaks off.
    """
    has_end = answer.raw.chunked or answer.raw.length_remaining is not None
    return has_end and answer.status_code != PARTIAL


def _holds_back(answer: requests.Response) -> bool:
    """Say whether there may be results beyond those of a page (PS3.18, 8.3.4.4: a warning)."""
    return answer.status_code == PARTIAL or answer.headers.get("Warning", "").startswith("299")


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
            return PacsAway(Failure.BUSY, _wait_of(response))
        case _:
            return NotFetched(Failure.PACS_ERROR)


def _wait_of(response: requests.Response) -> float:
    """Return the seconds that an answer asks to wait for, at most LONGEST_WAIT.

    It gives them, or the moment to come back (RFC 9110, 10.2.3), which is compared with the clock
    of whoever answered.
    """
    asked = response.headers.get("Retry-After", "").strip()
    try:
        if asked.isdecimal():
            seconds = float(asked)
        else:
            now = parsedate_to_datetime(response.headers.get("Date", ""))
            seconds = parsedate_to_datetime(asked).timestamp() - now.timestamp()
    except (ValueError, OverflowError):  # no number, and no date
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


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
    return value[:LONGEST_VALUE].strip("\0 ") if isinstance(value, str) else ""
