"""What Prometheus is told of a coordinator, read from its folder and its SuperLink when it asks.

Nothing is counted here and nothing is kept: a coordinator that was started again tells the same.
Times are given as seconds since 1970, from which Prometheus makes ages and days left. Labels are
names of studies and of hospitals as enrolled, and fixed words of ours; nothing that a site sends.
"""

import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from metaward.certificate_file import read_certificate
from metaward.errors import ConfigError, FederationError
from metaward.health import Answer, ask_health
from metaward.progress import RoundEvent
from metaward.run_directory import RunDirectory
from metaward_server.admission import Refusal
from metaward_server.coordinator.home import Coordinator
from metaward_server.coordinator.hospitals import Presence, enrolled, presence
from metaward_server.coordinator.studies import STUDY_FILE, StudyFolder, StudyState, all_studies

FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "metaward_build_info": ("Always 1.", ("version", "flwr", "python")),
    "metaward_superlink_up": ("1 where the SuperLink says that it serves.", ()),
    "metaward_unreadable": ("Files, or sets of them, that could not be read.", ()),
    "metaward_certificate_expiry_timestamp_seconds": (
        "When a certificate ends.",
        ("certificate",),
    ),
    "metaward_hospitals_enrolled": ("Hospitals that are enrolled.", ()),
    "metaward_hospital_online": (
        "1 where the hospital's node sends signs of life; absent where the SuperLink is away.",
        ("hospital",),
    ),
    "metaward_studies": ("Studies by state.", ("state",)),
    "metaward_study_state": ("1 for the state that the study is in.", ("study", "state")),
    "metaward_study_begun_timestamp_seconds": ("When the study was asked for.", ("study",)),
    "metaward_study_rounds_planned": ("Rounds that the study shall have.", ("study",)),
    "metaward_study_rounds": ("Closed rounds by result.", ("study", "result")),
    "metaward_study_last_committed_timestamp_seconds": (
        "When the newest round that moved the model closed.",
        ("study",),
    ),
    "metaward_study_least_updates": ("Updates that a round needs.", ("study",)),
    "metaward_study_last_round_asked": ("Hospitals that the newest round asked.", ("study",)),
    "metaward_study_last_round_admitted": ("Updates that it admitted.", ("study",)),
    "metaward_study_last_round_seconds": ("How long it took.", ("study",)),
    "metaward_study_refused_replies": (
        "Replies that did not count, by reason, in all closed rounds.",
        ("study", "reason"),
    ),
}
"""Name -> what it says, and its labels. Nothing else is told."""

STATES: tuple[str, ...] = get_args(StudyState.model_fields["state"].annotation)
REASONS = frozenset(reason.value for reason in Refusal)

Sample = tuple[str, tuple[str, ...], float]
"""Name of the family, values of its labels, value."""


class CoordinatorCollector(Collector):
    """Reads a coordinator for each scrape; one scrape at a time.

    Args:
        coordinator: That is read.
        ask: Of :func:`metaward.health.ask_health`'s kind.
        present: Of :func:`metaward_server.coordinator.hospitals.presence`'s kind.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        *,
        ask: Callable[[str, int], Answer] = ask_health,
        present: Callable[[Coordinator], list[Presence]] = presence,
    ) -> None:
        self._coordinator, self._ask, self._present = coordinator, ask, present
        self._lock = threading.Lock()

    def collect(self) -> list[GaugeMetricFamily]:
        """Return all families, those without a sample too."""
        families = {
            name: GaugeMetricFamily(name, said, labels=labels)
            for name, (said, labels) in FAMILIES.items()
        }
        with self._lock:
            for name, labels, value in self._samples():
                families[name].add_metric(labels, value)
        return list(families.values())

    def _samples(self) -> Iterator[Sample]:
        coordinator = self._coordinator
        versions = (version("metaward"), version("flwr"), platform.python_version())
        yield "metaward_build_info", versions, 1
        is_up = self._ask("SuperLink", coordinator.settings.health_port).healthy
        yield "metaward_superlink_up", (), is_up
        folders = all_studies(coordinator)
        parts: list[Callable[[], Iterable[Sample]]] = [
            lambda: _certificates(coordinator),
            lambda: _hospitals(coordinator, self._present if is_up else _nobody),
            *(lambda folder=folder: _study(folder) for folder in folders),
        ]
        unreadable, states = 0, Counter[str]()
        for part in parts:
            try:
                samples = list(part())
            except (ConfigError, OSError, ValueError, TypeError):  # one part must not hide others
                unreadable += 1
                continue
            yield from samples
            states.update(
                labels[1] for name, labels, on in samples if name == "metaward_study_state" and on
            )
        yield from (("metaward_studies", (state,), states[state]) for state in STATES)
        yield "metaward_unreadable", (), unreadable


def _certificates(coordinator: Coordinator) -> Iterator[Sample]:
    for name, path in (
        ("server", coordinator.certificate),
        ("authority", coordinator.ca_certificate),
    ):
        end = read_certificate(path).not_valid_after_utc
        yield "metaward_certificate_expiry_timestamp_seconds", (name,), end.timestamp()


def _hospitals(
    coordinator: Coordinator, present: Callable[[Coordinator], list[Presence]]
) -> Iterator[Sample]:
    yield "metaward_hospitals_enrolled", (), len(enrolled(coordinator))
    try:
        there = present(coordinator)
    except FederationError:  # it went away since it was asked for its health
        return
    for one in there:
        yield "metaward_hospital_online", (one.hospital,), one.status == "online"


def _nobody(_: Coordinator) -> list[Presence]:
    """Where the SuperLink is away nobody knows, which is not the same as offline."""
    return []


def _study(folder: StudyFolder) -> Iterator[Sample]:
    study, state = folder.study, folder.state.state
    for one in STATES:
        yield "metaward_study_state", (study.name, one), one == state
    name = (study.name,)
    begun = (folder.path / STUDY_FILE).stat().st_mtime
    yield "metaward_study_begun_timestamp_seconds", name, begun
    yield "metaward_study_rounds_planned", name, study.rounds
    yield "metaward_study_least_updates", name, study.least_updates()
    yield from _rounds(study.name, RunDirectory(folder.path).read_rounds())


def _rounds(study: str, events: tuple[RoundEvent, ...]) -> Iterator[Sample]:
    committed = [event for event in events if not event.void]
    yield "metaward_study_rounds", (study, "committed"), len(committed)
    yield "metaward_study_rounds", (study, "void"), len(events) - len(committed)
    if committed and committed[-1].closed_at is not None:
        when = committed[-1].closed_at
        yield "metaward_study_last_committed_timestamp_seconds", (study,), when
    if events:
        yield "metaward_study_last_round_asked", (study,), events[-1].asked
        yield "metaward_study_last_round_admitted", (study,), events[-1].admitted
        yield "metaward_study_last_round_seconds", (study,), events[-1].seconds
    refused = Counter[str]()
    for event in events:
        refused.update(event.refused)
    for reason in sorted(refused.keys() & REASONS):
        yield "metaward_study_refused_replies", (study, reason), refused[reason]
