"""The report's learning curves: accuracy against labelled images per finding.

Each plot is one small SVG, so that a page can put them side by side or below one another. Every
figure that a plot shows stands in a table of the report too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaward.report.schema import EvaluationRow, Interval, MethodSummary, PooledRow, Report
from metaward.report.svg import (
    DASHES,
    GROUND,
    LINE,
    MARKERS,
    MEAN,
    MOST_PANELS,
    MUTED,
    PANEL,
    SERIES,
    drawing,
    shorten,
    to_svg,
)
from metaward.report.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_GAP = 0.095
"""Least distance of two labels at the end of their lines, as a share of the axis."""


@dataclass(frozen=True)
class Point:
    """A mean with its interval at one shot count; all in per cent."""

    shots: int
    mean: float
    low: float
    high: float


Curves = Mapping[str, Sequence[Point]]
"""Name of a method -> its points, by shot count."""


def learning_curves(report: Report) -> list[str]:
    """Return one SVG per measured hospital, and one of their mean where there are several."""
    sites = report.measured_sites
    panels: dict[str, Curves] = {}
    if len(sites) > 1:
        panels[MEAN] = {method.name: _pooled_points(report, method) for method in report.methods}
    for site in sites[:MOST_PANELS]:
        panels[site] = {
            method.name: _site_points(report, site, method) for method in report.methods
        }
    limits = _common_limits([*panels.values()], report)
    return [
        _curve_panel(report, title, curves, limits, f"curve-{index}")
        for index, (title, curves) in enumerate(panels.items())
    ]


def _site_points(report: Report, site: str, method: MethodSummary) -> list[Point]:
    rows = [report.row(site, method.name, shots) for shots in report.measured_shots]
    return [point for row in rows if row and (point := _point(row))]


def _pooled_points(report: Report, method: MethodSummary) -> list[Point]:
    """Return the means over all hospitals; a mean of fewer would bend the curve by itself."""
    rows = [report.pooled_row(method.name, shots) for shots in report.measured_shots]
    most = max((len(row.sites) for row in rows if row), default=0)
    full = [row for row in rows if row and len(row.sites) == most]
    return [point for row in full if (point := _point(row))]


def _point(row: EvaluationRow | PooledRow) -> Point | None:
    if row.mean is None:
        return None
    low, high = row.ci95 or (row.mean, row.mean)
    return Point(row.shots, 100 * row.mean, 100 * low, 100 * high)


def _common_limits(panels: Sequence[Curves], report: Report) -> Interval:
    ends = [
        end
        for curves in panels
        for curve in curves.values()
        for point in curve
        for end in (point.low, point.high)
    ]
    chances = [100 * row.chance for row in report.evaluation if row.metric == "accuracy"]
    low = min([*ends, *chances], default=0.0) - 2
    high = max(ends, default=100.0) + 2
    return max(0.0, 10 * math.floor(low / 10)), min(100.0, 10 * math.ceil(high / 10))


def _curve_panel(report: Report, title: str, curves: Curves, limits: Interval, name: str) -> str:
    shots = list(report.measured_shots)
    with drawing(*PANEL) as (figure, axes):
        figure.subplots_adjust(left=0.125, right=0.59, bottom=0.17, top=0.88)
        axes.set_title(shorten(title, 34), pad=9, x=-0.24)
        axes.set_xlim(-0.35, len(shots) - 0.65)
        axes.set_ylim(*limits)
        axes.set_xticks(range(len(shots)), [str(k) for k in shots])
        axes.set_xlabel("labelled images per finding")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        ends = _draw_chance(axes, report, title)
        for index, method in reversed(list(enumerate(report.methods))):
            curve = curves[method.name]
            if curve:
                offset = (index - (len(report.methods) - 1) / 2) * 0.07
                _draw_curve(axes, curve, shots, index, offset)
                ends.append((curve[-1].mean, method.label, SERIES[index % len(SERIES)]))
        _label_ends(axes, ends, limits, bold=report.method_named(report.method).label)
        return to_svg(figure, name=name, alt=_curve_alt(report, title, curves))


def _draw_curve(
    axes: "Axes", curve: Sequence[Point], shots: Sequence[int], index: int, offset: float
) -> None:
    colour = SERIES[index % len(SERIES)]
    x = [shots.index(point.shots) + offset for point in curve]
    y = [point.mean for point in curve]
    below = [max(0.0, point.mean - point.low) for point in curve]
    above = [max(0.0, point.high - point.mean) for point in curve]
    axes.errorbar(
        x,
        y,
        yerr=[below, above],
        color=colour,
        linestyle=DASHES[index % len(DASHES)],
        marker=MARKERS[index % len(MARKERS)],
        markeredgecolor=GROUND,
        markeredgewidth=0.6,
        linewidth=2.0 if index == 0 else 1.3,
        elinewidth=1.1,
        capsize=0,
    )


def _draw_chance(axes: "Axes", report: Report, title: str) -> list[tuple[float, str, str]]:
    """Draw what guessing gives, where that is one level; return the line's label, if there is one.

    The label stands beside those of the methods, where none is written over another.
    """
    chances = {
        row.chance
        for row in report.evaluation
        if row.metric == "accuracy" and title in (row.site, MEAN)
    }
    if len(chances) != 1:
        return []
    level = 100 * chances.pop()
    axes.axhline(level, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    return [(level, "guessing", MUTED)]


def _label_ends(
    axes: "Axes", ends: Sequence[tuple[float, str, str]], limits: Interval, *, bold: str
) -> None:
    """Write each line's name and last value at its end, none over another."""
    low, high = limits
    gap = LABEL_GAP * (high - low)
    heights = _spread([end[0] for end in ends], gap, low, high)
    for height, (mean, label, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            f"{shorten(label, 19)} {mean:.0f}%",
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold" if label == bold else "normal",
            annotation_clip=False,
        )


def _spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move heights apart to at least ``gap``, in their order, staying near and within limits."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [min(max(heights[i], low), high) for i in order]
    for _ in range(100):
        for i in range(1, len(placed)):
            lack = gap - (placed[i] - placed[i - 1])
            if lack > 0:
                placed[i - 1] -= lack / 2
                placed[i] += lack / 2
        if placed and placed[-1] > high:
            placed[-1] = high
        if placed and placed[0] < low:
            placed[0] = low
    result = [0.0] * len(heights)
    for position, i in enumerate(order):
        result[i] = placed[position]
    return result


def _curve_alt(report: Report, title: str, curves: Curves) -> str:
    texts = []
    for method in report.methods:
        values = ", ".join(f"{percent(p.mean / 100, 0)}% at {p.shots}" for p in curves[method.name])
        if values:
            texts.append(f"{method.label}: {values}.")
    return f"Accuracy against labelled images per finding, {title}. " + " ".join(texts)
