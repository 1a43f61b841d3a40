"""A PACS over DIMSE: C-FIND to search, C-GET to fetch.

With C-GET the PACS sends images back over the connection that asked for them; C-MOVE would need a
port at the hospital's machine that the PACS connects to.
"""

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from metaward.errors import ConfigError
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
from metaward_client.pacs.dimse_connection import (
    FIND,
    GET,
    SUCCESS,
    DimseConnection,
    require_service,
)
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DimseSettings

if TYPE_CHECKING:
    from pynetdicom.association import Association

PENDING, SOME_FAILED, OUT_OF_RESOURCES = (0xFF00, 0xFF01), 0xB000, 0xA700


class DimseArchive:
    """See :class:`~metaward_client.pacs.archive.Archive`."""

    def __init__(
        self, settings: DimseSettings, credentials: Credentials | None, pace: Pace
    ) -> None:
        self._connection = DimseConnection(settings, credentials, pace)

    def check(self) -> None:
        """Connect; a PACS that does not know us, or has no C-FIND for us, says so."""
        try:
            self._connection.ask(lambda association: require_service(association, FIND))
        except NotFetched as error:
            failure = error.failure
        else:
            return
        raise ConfigError(
            f"no DIMSE service answers there ({failure.value})",
            expected="a PACS that speaks DIMSE",
            where="data.pacs.host, data.pacs.port",
            next_step="Correct them, or ask whoever runs the PACS.",
        )

    def studies(self, query: StudyQuery) -> list[Study]:
        """C-FIND at study level."""
        keys = {
            "StudyInstanceUID": query.study_uid,
            "PatientID": query.patient_id,
            "ModalitiesInStudy": query.modality,
            "StudyDate": query.days(),
        }
        found = self._find("STUDY", keys, ("StudyInstanceUID", "PatientID", "StudyDate"))
        return [Study(*row) for row in found]

    def instances(self, study: Study, modality: str) -> list[Instance]:
        """C-FIND at series level, then at image level for each series."""
        above = {"StudyInstanceUID": study.uid}
        found: list[Instance] = []
        of_study = {**above, "SeriesInstanceUID": "", "Modality": modality}
        for series_uid, its_modality in self._find(
            "SERIES", of_study, ("SeriesInstanceUID", "Modality")
        ):
            if modality and its_modality not in ("", modality):
                continue
            of_series = {**above, "SeriesInstanceUID": series_uid}
            question = {**of_series, "SOPInstanceUID": "", "SOPClassUID": ""}
            images = self._find("IMAGE", question, ("SOPInstanceUID", "SOPClassUID"))
            found += (
                Instance(study, series_uid, sop_uid, sop_class, its_modality)
                for sop_uid, sop_class in images
            )
            if len(found) > LONGEST_LISTING:
                raise NotFetched(Failure.LISTING_TOO_LONG)
        return found

    def retrieve(self, instance: Instance, sink: Sink) -> None:
        """C-GET at image level."""
        self._connection.offer(instance.sop_class)
        question = _identifier(
            "IMAGE",
            {
                "StudyInstanceUID": instance.study.uid,
                "SeriesInstanceUID": instance.series_uid,
                "SOPInstanceUID": instance.sop_uid,
            },
        )
        self._connection.expect(instance.sop_uid)

        def get(association: "Association") -> int | None:
            require_service(association, GET)
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            if instance.sop_class and instance.sop_class not in accepted:
                raise NotFetched(Failure.NOT_OFFERED)
            self._connection.wait_for_turn(association)
            answers = association.send_c_get(question, GET)
            return _last([status.get("Status") for status, _ in answers])

        status = self._connection.ask(get)
        received = self._connection.received()
        if received is not None and status in (SUCCESS, SOME_FAILED):
            sink.write(received)
        elif status == SUCCESS:
            raise NotFetched(Failure.GONE)
        else:
            raise _of_status(status)

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    def _find(
        self, level: str, keys: dict[str, str], names: tuple[str, ...]
    ) -> list[tuple[str, ...]]:
        """C-FIND; return these elements of each answer."""

        def find(association: "Association") -> list[tuple[str, ...]]:
            self._connection.wait_for_turn(association)
            found: list[tuple[str, ...]] = []
            for answer, row in association.send_c_find(_identifier(level, keys), FIND):
                status = answer.get("Status")
                if status in PENDING:
                    if row is None:  # it cannot be decoded
                        raise NotFetched(Failure.NOT_UNDERSTOOD)
                    found.append(tuple(_text(row, name) for name in names))
                    if len(found) > LONGEST_LISTING:
                        raise NotFetched(Failure.LISTING_TOO_LONG)
                elif status != SUCCESS:
                    raise _of_status(status)
            return found

        try:
            return self._connection.ask(find)
        except NotFetched:
            self._connection.hang_up()  # or the next question gets the answers still to come
            raise


def _identifier(level: str, keys: dict[str, str]) -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    if not all(value.isascii() for value in keys.values()):
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


def _text(row: Dataset, keyword: str) -> str:
    return str(row.get(keyword) or "")[:LONGEST_VALUE].strip("\0 ")


def _last(statuses: list[int | None]) -> int | None:
    return statuses[-1] if statuses else None


def _of_status(status: int | None) -> Exception:
    """Return what the status of an answer means; None where the connection ended."""
    if status is None:
        return PacsAway(Failure.INCOMPLETE)
    if status == OUT_OF_RESOURCES:
        return PacsAway(Failure.BUSY)
    return NotFetched(Failure.PACS_ERROR)
