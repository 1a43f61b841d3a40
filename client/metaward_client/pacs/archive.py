"""What a fetch needs of a PACS, whatever protocol it speaks; and what may go wrong there.

Whoever speaks to a PACS drops the texts of its answers and of the libraries' exceptions, which
quote identifiers: what comes out is a reason from a closed list.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from metaward_client.pacs.failures import Failure

LONGEST_LISTING = 500_000
"""Studies, or instances of a study, that a PACS may list; a few hundred bytes are held of each."""

LONGEST_VALUE = 256
"""Characters that are kept of a value; no UID, date, modality or patient ID is as long."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(text: str) -> bool:
    """Say whether a text may stand in a request as a UID.

    >>> is_uid("1.2.840.10008"), is_uid("1.2/../3"), is_uid("1.2*")
    (True, False, False)
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


@dataclass(frozen=True)
class StudyQuery:
    """Which studies to list; an empty value matches all.

    A PACS may ignore a condition or read a wildcard into it, so what comes back is compared again.
    """

    study_uid: str = ""
    patient_id: str = ""
    modality: str = ""
    since: date | None = None
    until: date | None = None

    def days(self) -> str:
        """Return the range of study dates as DICOM writes it.

        >>> StudyQuery(since=date(2024, 1, 5)).days()
        '20240105-'
        """
        if self.since is None and self.until is None:
            return ""
        first, last = (day and day.strftime("%Y%m%d") for day in (self.since, self.until))
        return f"{first or ''}-{last or ''}"


@dataclass(frozen=True, slots=True)
class Study:
    """A study that the PACS has.

    Attributes:
        day: Its date as DICOM writes it; empty where the PACS does not say.
    """

    uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    day: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """An image, or another object, that the PACS has.

    Attributes:
        sop_class: UID of what kind of object it is; empty where the PACS does not say.
        modality: Of its series; empty where the PACS does not say.
    """

    study: Study = field(repr=False)
    series_uid: str = field(repr=False)
    sop_uid: str = field(repr=False)
    sop_class: str = ""
    modality: str = ""

    def is_sound(self) -> bool:
        """Say whether all its UIDs are UIDs; the class may be unknown."""
        uids = (self.study.uid, self.series_uid, self.sop_uid, self.sop_class or self.sop_uid)
        return all(map(is_uid, uids))


class PacsAway(Exception):  # noqa: N818 (what it is about is the PACS)
    """The PACS did not answer, or said that it is busy: worth another try.

    Args:
        failure: What happened.
        wait: Seconds that the PACS asks to wait for, at least.
    """

    def __init__(self, failure: Failure = Failure.NO_ANSWER, wait: float = 0.0) -> None:
        super().__init__(failure.value)
        self.failure = failure
        self.wait = wait


class NotFetched(Exception):  # noqa: N818 (what it is about is the instance)
    """The PACS answered, and one request cannot be fulfilled; another try gives the same."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


class Sink(Protocol):
    """Where a file is written to."""

    def write(self, data: bytes, /) -> None:
        """Take the next bytes."""


class Archive(Protocol):
    """A PACS, to read from. Every method may raise PacsAway, NotFetched or ConfigError."""

    def check(self) -> None:
        """Make sure that the PACS answers and lets us in."""

    def studies(self, query: StudyQuery) -> Iterable[Study]:
        """List studies."""

    def instances(self, study: Study, modality: str) -> Iterable[Instance]:
        """List the instances of a study; of all modalities where ``modality`` is empty."""

    def retrieve(self, instance: Instance, sink: Sink) -> None:
        """Write the instance as a DICOM file, encoded as the PACS stores it."""

    def close(self) -> None:
        """Hang up."""


def once(studies: Iterable[Study]) -> Iterator[Study]:
    """Leave out studies that came before."""
    seen: set[str] = set()
    for study in studies:
        if study.uid not in seen:
            seen.add(study.uid)
            yield study
