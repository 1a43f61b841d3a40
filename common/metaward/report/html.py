"""The report as one HTML file: no script, no request, readable on a phone and on paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaward.report.answer import Answer, answer
from metaward.report.schema import Metric, Report
from metaward.report.wording import (
    NOT_MEASURED,
    counted,
    percent_with_interval,
    points_with_interval,
    seconds,
)
from metaward.whole_file import write_atomically

METRIC_NAMES: Mapping[Metric, str] = {
    "accuracy": "Right answers, per cent",
    "auroc": "Area under the ROC curve, per cent",
}


@dataclass(frozen=True)
class Cell:
    """One figure of a table, and whether it is the best of its row."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One row: hospital, shot count and a cell per column."""

    site: str
    shots: int
    cells: tuple[Cell, ...]
    is_mean: bool = False
    starts_group: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; ``columns`` are headings after hospital and shots."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def write_report_html(report: Report, path: Path) -> None:
    """Write ``report.html``; the same report gives the same bytes."""
    write_atomically(path, render_html(report))


def render_html(report: Report) -> str:
    """Return the report as a self-contained HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from metaward.report.course_plots import training_course
    from metaward.report.curve_plots import learning_curves
    from metaward.report.difference_plots import paired_differences

    environment = Environment(
        loader=PackageLoader("metaward.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(seconds=seconds, counted=counted)
    said: Answer = answer(report)
    return environment.get_template("report.html.j2").render(
        report=report,
        answer=said,
        curves=learning_curves(report),
        differences=[] if said.shots is None else paired_differences(report, said.shots),
        courses=training_course(report.training),
        score_tables=[
            table for metric in METRIC_NAMES if (table := score_table(report, metric)).rows
        ],
        difference_table=difference_table(report),
        settings=settings_text(report),
    )


def score_table(report: Report, metric: Metric) -> Table:
    """Return every mean with its interval: a row per hospital and shot count, then the mean."""
    rows: list[Row] = []
    several = len(report.measured_sites) > 1
    for site in (*report.measured_sites, *([None] if several else [])):
        first = True
        for shots in report.measured_shots:
            found = [
                report.row(site, method.name, shots, metric)
                if site is not None
                else report.pooled_row(method.name, shots, metric)
                for method in report.methods
            ]
            means = [row.mean for row in found if row is not None and row.mean is not None]
            if not means:
                continue
            cells = tuple(
                Cell(percent_with_interval(row.mean, row.ci95), row.mean == max(means))
                if row is not None
                else Cell(NOT_MEASURED)
                for row in found
            )
            name = site if site is not None else _mean_of(report, shots)
            rows.append(Row(name, shots, cells, site is None, first or name != rows[-1].site))
            first = False
    return Table(
        caption=f"{METRIC_NAMES[metric]} (95% interval)",
        columns=tuple(method.label for method in report.methods),
        rows=tuple(rows),
    )


def difference_table(report: Report) -> Table:
    """Return every paired difference in accuracy with its interval."""
    rows: list[Row] = []
    several = len(report.measured_sites) > 1
    for site in (*report.measured_sites, *([None] if several else [])):
        first = True
        for shots in report.measured_shots:
            found = [
                report.difference(site, reference.name, shots) for reference in report.references
            ]
            if not any(found):
                continue
            cells = tuple(
                Cell(points_with_interval(row.difference, row.ci95)) if row else Cell(NOT_MEASURED)
                for row in found
            )
            name = site if site is not None else _mean_of(report, shots)
            rows.append(Row(name, shots, cells, site is None, first or name != rows[-1].site))
            first = False
    label = report.method_named(report.method).label
    return Table(
        caption=f"{label} minus each other method, in points (95% interval)",
        columns=tuple(f"minus {reference.label}" for reference in report.references),
        rows=tuple(rows),
    )


def _mean_of(report: Report, shots: int) -> str:
    """Name the mean at a shot count, and say so where it leaves hospitals out."""
    there = sum(
        report.row(site, report.method, shots) is not None for site in report.measured_sites
    )
    total = len(report.measured_sites)
    return (
        f"Mean over {total} hospitals" if there == total else f"Only {there} of {total} hospitals"
    )


def settings_text(report: Report) -> str:
    """Return the study's settings as YAML."""
    import yaml

    return yaml.safe_dump(_plain(report.settings), sort_keys=False) if report.settings else ""


def _plain(value: object) -> object:
    """Turn tuples into lists, which is how YAML writes them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
