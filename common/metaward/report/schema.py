"""What stands in ``report.json``: one frozen model per part, and the file's reader and writer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from metaward.config import Settings, validate_settings
from metaward.errors import ConfigError
from metaward.privacy_statement import PrivacyStatement
from metaward.whole_file import write_atomically

Interval = tuple[float, float]
Metric = Literal["accuracy", "auroc"]
Share = Annotated[float, Field(ge=0, le=1)]


class MethodSummary(Settings):
    """A method that was measured.

    Attributes:
        phrase: How a sentence speaks of it after a figure: ``"when the hospital trains alone"``.
        description: What it is, in one sentence, for a reader who does not know the field.
    """

    name: str
    label: str
    phrase: str = ""
    description: str = ""

    @property
    def in_words(self) -> str:
        """The phrase, or one made from the label."""
        return self.phrase or f"with {self.label}"


class LabelSummary(Settings):
    """How much there is of one label."""

    name: str
    images: int
    patients: int


class SiteSummary(Settings):
    """What one site holds; counts only."""

    name: str
    held_out: bool = Field(description="took no part in the training")
    images: int
    patients: int
    labels: tuple[LabelSummary, ...]
    description: str = ""


class EvaluationRow(Settings):
    """How well one method did at one site.

    Attributes:
        mean: Between 0 and 1; None where nothing could be measured.
        ci95: Ends of the 95% interval, clustered by patient and by episode.
        patients: Different patients among the queries.
        queries: Scored queries.
        chance: What guessing gives.
        adapt_seconds: Median wall time of one adaptation.
    """

    site: str
    method: str
    shots: int
    metric: Metric = "accuracy"
    mean: Share | None
    ci95: Interval | None
    episodes: int
    patients: int
    n_way: int
    queries: int
    chance: float
    adapt_seconds: float | None = None


class ComparisonRow(Settings):
    """How much better ``method`` did than ``reference`` on the same queries.

    Attributes:
        site: None for the mean over the sites that were measured at this shot count.
    """

    site: str | None
    method: str
    reference: str
    shots: int
    metric: Metric = "accuracy"
    difference: float | None
    ci95: Interval | None
    episodes: int
    patients: int


class PooledRow(Settings):
    """Mean over sites with equal weight, and the site where the method did worst."""

    method: str
    shots: int
    metric: Metric = "accuracy"
    mean: Share | None
    ci95: Interval | None
    sites: tuple[str, ...]
    worst_site: str
    worst_mean: Share


class LeftOutRow(Settings):
    """A shot count that was not measured at a site, and why."""

    site: str
    shots: int
    reason: str


class TrainingRound(Settings):
    """One closed round.

    Attributes:
        loss: Mean over sites of the loss on their own images; only a simulation knows it.
    """

    round_index: int
    loss: float | None = None
    delta_norm: float | None = None
    asked: int = 0
    admitted: int = 0
    refused: int = 0
    void: bool = False
    seconds: float | None = None


class Provenance(Settings):
    """What it takes to get the same figures again."""

    command: str
    commit: str = "unknown"
    seeds: dict[str, int] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    wall_seconds: dict[str, float] = Field(default_factory=dict)
    machine: str = ""
    started: str = Field("", description="ISO 8601, with time zone")
    model_sha256: str = ""


class Report(Settings):
    """Everything that ``report.json`` holds and ``report.html`` shows.

    Attributes:
        method: Name of the method that the report is about.
        baseline: Name of the method that its first sentence compares with.
        learning_curve: Shot counts of the plan, ascending.
        settings: The study's settings, resolved.
    """

    format_version: Literal[1] = 1
    kind: Literal["simulation", "new-site"]
    title: str
    synthetic_data: bool
    method: str
    baseline: str | None
    methods: tuple[MethodSummary, ...] = Field(min_length=1)
    learning_curve: tuple[int, ...]
    sites: tuple[SiteSummary, ...]
    evaluation: tuple[EvaluationRow, ...]
    comparison: tuple[ComparisonRow, ...]
    pooled: tuple[PooledRow, ...]
    left_out: tuple[LeftOutRow, ...] = ()
    training: tuple[TrainingRound, ...] = ()
    privacy: PrivacyStatement = PrivacyStatement()
    # Any: a resolved configuration holds any plain value.
    settings: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance

    def method_named(self, name: str) -> MethodSummary:
        """Return the summary of a method; it is there by construction."""
        return next(method for method in self.methods if method.name == name)

    def row(
        self, site: str, method: str, shots: int, metric: Metric = "accuracy"
    ) -> EvaluationRow | None:
        """Return the row of a site, or None where it was not measured."""
        wanted = (site, method, shots, metric)
        for row in self.evaluation:
            if (row.site, row.method, row.shots, row.metric) == wanted:
                return row if row.mean is not None else None
        return None

    def pooled_row(self, method: str, shots: int, metric: Metric = "accuracy") -> PooledRow | None:
        """Return the mean over sites, or None where it was not measured."""
        for row in self.pooled:
            if (row.method, row.shots, row.metric) == (method, shots, metric):
                return row if row.mean is not None else None
        return None

    def difference(
        self, site: str | None, reference: str, shots: int, metric: Metric = "accuracy"
    ) -> ComparisonRow | None:
        """Return how the report's method compares with ``reference``; ``site=None`` is the mean."""
        wanted = (site, self.method, reference, shots, metric)
        for row in self.comparison:
            if (row.site, row.method, row.reference, row.shots, row.metric) == wanted:
                return row if row.difference is not None else None
        return None

    @property
    def references(self) -> tuple[MethodSummary, ...]:
        """The methods that the report's method is compared with."""
        return tuple(method for method in self.methods if method.name != self.method)

    @property
    def measured_sites(self) -> tuple[str, ...]:
        """Sites with a measurement, in the order of the evaluation."""
        return tuple(dict.fromkeys(row.site for row in self.evaluation if row.mean is not None))

    @property
    def measured_shots(self) -> tuple[int, ...]:
        """Shot counts with a measurement at some site, ascending."""
        return tuple(sorted({row.shots for row in self.evaluation if row.mean is not None}))


def write_report_json(report: Report, path: Path) -> None:
    """Write ``report.json``; the same report gives the same bytes."""
    write_atomically(path, report.model_dump_json(indent=2) + "\n")


def read_report_json(path: Path) -> Report:
    """Read ``report.json``.

    Raises:
        ConfigError: The file is missing, is not JSON or does not fit.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, Mapping):
        raise ConfigError(
            "no readable JSON table",
            expected="a report.json as `metaward` wrote it",
            where=str(path),
            next_step="Name a run directory whose evaluation finished.",
        )
    return validate_settings(dict(content), Report, where=str(path))
