"""Fetch what is wanted and not there yet, study by study, whatever the PACS answers in between."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from metaward.errors import DataError
from metaward_client.dicom.progress import OnProgress
from metaward_client.pacs.archive import (
    Archive,
    Instance,
    NotFetched,
    PacsAway,
    Study,
    is_uid,
    once,
)
from metaward_client.pacs.failures import EXPLANATIONS, Failure
from metaward_client.pacs.landing import Landing
from metaward_client.pacs.pace import Clock
from metaward_client.pacs.wanted import Wanted

ResultT = TypeVar("ResultT")

ATTEMPTS = 5
"""For each request, with 1, 2, 4 and 8 seconds between them."""

LOST_IN_A_ROW = 3
"""Instances that got no answer in all their attempts, one after the other, before the PACS counts
as away: one slow image must not end a fetch, and a dead PACS must not be asked for each image."""


@dataclass
class FetchReport:
    """What became of a fetch.

    Attributes:
        n_studies: Studies that the PACS listed and that may hold what is wanted.
        n_wanted: Instances that are wanted.
        n_there: Of these, those that were there before.
        n_fetched: Of these, those fetched now.
        n_bytes: Fetched now.
        failed: Of these, those that failed, by reason.
        unlisted: Studies whose instances could not be listed, by reason.
        n_keys_without_instance: Keys of the label table that no instance has; None where not all
            could be listed, or where the table does not matter.
        n_not_wanted: Files from earlier fetches that are not wanted any more; None where not all
            could be listed.
        n_requests: Sent to the PACS.
    """

    n_studies: int = 0
    n_wanted: int = 0
    n_there: int = 0
    n_fetched: int = 0
    n_bytes: int = 0
    failed: Counter[Failure] = field(default_factory=Counter)
    unlisted: Counter[Failure] = field(default_factory=Counter)
    n_keys_without_instance: int | None = None
    n_not_wanted: int | None = None
    n_requests: int = 0

    @property
    def n_available(self) -> int:
        """Wanted instances that are there now."""
        return self.n_there + self.n_fetched

    def require_some(self) -> None:
        """Stop where nothing that is wanted is there.

        Raises:
            DataError: See above.
        """
        if self.n_available:
            return
        reasons = ", ".join(
            f"{n} {failure.value}" for failure, n in sorted((self.failed + self.unlisted).items())
        )
        raise DataError(
            f"nothing was fetched: {self.n_studies} studies and {self.n_wanted} instances are "
            "wanted" + (f" ({reasons})" if reasons else ""),
            expected="images in the PACS that the selection and the label table name",
            where="data.pacs.select, data.labels",
            next_step="Compare the keys of the label table, data.key and the selection with what "
            "the PACS has.",
        )


class Fetch:
    """One fetch.

    Args:
        archive: The PACS.
        landing: Where files go.
        wanted: What is wanted.
        clock: For the pauses between attempts.
        on_progress: Told the stages ``"studies"`` and ``"images"``.
    """

    def __init__(
        self,
        archive: Archive,
        landing: Landing,
        wanted: Wanted,
        clock: Clock,
        on_progress: OnProgress,
    ) -> None:
        self._archive = archive
        self._landing = landing
        self._wanted = wanted
        self._clock = clock
        self._on_progress = on_progress
        self._lost_in_a_row = 0
        self._seen: set[str] = set()
        self._failed: dict[str, tuple[Failure, set[str]]] = {}  # why, and in which studies
        self.report = FetchReport()

    def run(self) -> FetchReport:
        """Fetch.

        Raises:
            ConfigError: The PACS does not let us in, or is not there.
            DataError: The PACS went away and stayed away, or the disk is full. What was fetched
                stays.
        """
        try:
            return self._run()
        except PacsAway as away:
            failure = away.failure
        raise DataError(
            f"the PACS stayed away, or busy, for {ATTEMPTS} attempts ({failure.value}); "
            f"{self.report.n_fetched} images were fetched before",
            expected="an answer",
            where="data.pacs",
            next_step=f"{EXPLANATIONS[failure].next_step} What is there is not fetched twice.",
        )

    def _run(self) -> FetchReport:
        report, wanted = self.report, self._wanted
        self._patiently(self._archive.check)
        studies = self._studies()
        report.n_studies = len(studies)
        senseless: set[str] = set()
        keys: set[str] = set()
        for number, study in enumerate(studies):
            self._on_progress("studies", number, len(studies))
            for instance in self._instances(study):
                if not wanted.has(instance):
                    continue
                keys.add(wanted.key_of(instance))
                if not instance.is_sound():
                    senseless.add(instance.sop_uid)
                elif self._is_due(instance):
                    self._bring(instance)
        self._count_senseless(senseless - self._seen)
        self._on_progress("studies", len(studies), len(studies))
        if not report.unlisted:
            report.n_not_wanted = len(self._landing.names) - report.n_available
            if wanted.keys:
                report.n_keys_without_instance = len(wanted.keys - keys)
        return report

    def _studies(self) -> list[Study]:
        def listed() -> Iterable[Study]:
            for query in self._wanted.queries():
                try:
                    yield from self._patiently(lambda: self._archive.studies(query))  # noqa: B023 (called at once)
                except NotFetched as error:
                    self.report.unlisted[error.failure] += 1

        return [study for study in once(listed()) if self._wanted.has_study(study)]

    def _instances(self, study: Study) -> list[Instance]:
        found: list[Instance] = []
        if not is_uid(study.uid):
            self.report.unlisted[Failure.SENSELESS_UID] += 1
            return found
        for modality in self._wanted.modalities():
            try:
                found += self._patiently(
                    lambda: list(self._archive.instances(study, modality))  # noqa: B023 (called at once)
                )
            except NotFetched as error:
                self.report.unlisted[error.failure] += 1
        return found

    def _count_senseless(self, sop_uids: set[str]) -> None:
        """Count instances that are listed under senseless UIDs only: they cannot be asked for."""
        n_there = sum(is_uid(uid) and self._landing.has(uid) for uid in sop_uids)
        self.report.n_wanted += len(sop_uids)
        self.report.n_there += n_there
        if len(sop_uids) > n_there:
            self.report.failed[Failure.SENSELESS_UID] += len(sop_uids) - n_there

    def _is_due(self, instance: Instance) -> bool:
        """Say whether to bring an instance: it is new here, or failed in other studies only."""
        uid = instance.sop_uid
        if uid not in self._seen:
            self._seen.add(uid)
            self.report.n_wanted += 1
            if self._landing.has(uid):
                self.report.n_there += 1
                return False
            return True
        failure, studies = self._failed.get(uid, (None, set()))
        if failure is None or instance.study.uid in studies:
            return False
        self.report.failed -= Counter([failure])
        return True

    def _bring(self, instance: Instance) -> None:
        report = self.report
        try:
            report.n_bytes += self._patiently(lambda: self._receive(instance))
            report.n_fetched += 1
            self._failed.pop(instance.sop_uid, None)
            self._lost_in_a_row = 0
        except NotFetched as error:
            self._count_failed(instance, error.failure)
            self._lost_in_a_row = 0
        except PacsAway as away:
            self._count_failed(instance, away.failure)
            self._lost_in_a_row += 1
            if self._lost_in_a_row == LOST_IN_A_ROW:
                raise
        done = report.n_fetched + report.failed.total()
        self._on_progress("images", done, report.n_wanted - report.n_there)

    def _count_failed(self, instance: Instance, failure: Failure) -> None:
        _, studies = self._failed.get(instance.sop_uid, (failure, set()))
        self._failed[instance.sop_uid] = (failure, studies | {instance.study.uid})
        self.report.failed[failure] += 1

    def _receive(self, instance: Instance) -> int:
        with self._landing.receive(instance.sop_uid) as sink:
            self._archive.retrieve(instance, sink)
        return sink.n_bytes

    def _patiently(self, ask: Callable[[], ResultT]) -> ResultT:
        """Ask, and ask again after a pause while the PACS is away."""
        attempts = Retrying(
            sleep=self._clock.sleep,
            stop=stop_after_attempt(ATTEMPTS),
            wait=_pause,
            retry=retry_if_exception_type(PacsAway),
            reraise=True,
        )
        return attempts(ask)


def _pause(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: doubled each time, or what the PACS asks for."""
    away = state.outcome.exception() if state.outcome is not None else None
    asked = away.wait if isinstance(away, PacsAway) else 0.0
    return max(float(2 ** (state.attempt_number - 1)), asked)
