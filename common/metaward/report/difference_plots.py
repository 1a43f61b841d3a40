"""The report's paired differences: one method against another, hospital by hospital.

Every figure that a plot shows stands in a table of the report too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metaward.report.schema import ComparisonRow, Interval, MethodSummary, Report
from metaward.report.svg import (
    INK,
    MEAN,
    MOST_PANELS,
    MUTED,
    PANEL,
    SERIES,
    drawing,
    shorten,
    to_svg,
)
from metaward.report.wording import points, points_with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def paired_differences(report: Report, shots: int) -> list[str]:
    """Return one SVG per reference: the difference at each hospital and over all of them."""
    sites: list[str | None] = [*report.measured_sites[:MOST_PANELS]]
    if len(report.measured_sites) > 1:
        sites.append(None)
    panels = {
        reference: rows
        for reference in report.references
        if (rows := [r for site in sites if (r := report.difference(site, reference.name, shots))])
    }
    limits = _difference_limits([row for rows in panels.values() for row in rows])
    return [
        _forest(report, reference, rows, limits, f"difference-{index}")
        for index, (reference, rows) in enumerate(panels.items())
    ]


def _difference_limits(rows: Sequence[ComparisonRow]) -> Interval:
    """Return limits that hold zero and every interval, in points."""
    ends = [100 * end for row in rows for end in row.ci95 or (row.difference or 0.0,)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    pad = 0.1 * max(high - low, 10.0)
    return low - pad, high + pad


def _forest(
    report: Report,
    reference: MethodSummary,
    rows: Sequence[ComparisonRow],
    limits: Interval,
    name: str,
) -> str:
    method = report.method_named(report.method)
    with drawing(PANEL[0], 0.95 + 0.34 * len(rows)) as (figure, axes):
        height = figure.get_figheight()
        figure.subplots_adjust(left=0.27, right=0.655, bottom=0.46 / height, top=1 - 0.34 / height)
        axes.set_title(shorten(f"against {reference.label}", 44), x=-0.69, pad=8)
        axes.set_xlim(*limits)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axvline(0.0, color=MUTED, linewidth=0.9)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_yticks(
            range(len(rows)), [shorten(row.site or "Mean", 16) for row in rows], color=INK
        )
        axes.set_xlabel("points gained")
        axes.xaxis.set_major_formatter(lambda value, _: points(value / 100, 0))
        axes.locator_params(axis="x", nbins=5)
        for place, row in enumerate(rows):
            _draw_difference(axes, place, row)
        alt = (
            f"{method.label} against {reference.label} at {rows[0].shots} images per finding. "
            + " ".join(
                f"{row.site or MEAN}: {points_with_interval(row.difference, row.ci95)} points."
                for row in rows
            )
        )
        return to_svg(figure, name=name, alt=alt)


def _draw_difference(axes: "Axes", place: int, row: ComparisonRow) -> None:
    assert row.difference is not None
    colour = SERIES[0] if row.site is not None else INK
    middle = 100 * row.difference
    if row.ci95:
        axes.plot([100 * row.ci95[0], 100 * row.ci95[1]], [place, place], color=colour)
    marker, size = ("o", 5.5) if row.site is not None else ("D", 6.5)
    axes.plot([middle], [place], marker=marker, markersize=size, color=colour)
    axes.annotate(
        points_with_interval(row.difference, row.ci95, 0 if abs(middle) >= 10 else 1),
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        fontweight="bold" if row.site is None else "normal",
        annotation_clip=False,
    )
