"""The answer in sentences: what was gained or lost, against what, and how sure that is."""

from dataclasses import dataclass
from typing import Literal

from metaward.report.schema import (
    ComparisonRow,
    EvaluationRow,
    Interval,
    MethodSummary,
    PooledRow,
    Report,
)
from metaward.report.wording import counted, percent, percent_interval, points, seconds

PREFERRED_SHOTS = 5
"""The shot count that the first sentence speaks of, where it was measured."""

Verdict = Literal["gain", "loss", "unclear", "nothing measured", "no comparison"]


@dataclass(frozen=True)
class Answer:
    """What the report says first.

    Attributes:
        verdict: Which way the interval of the difference points.
        shots: The shot count that the sentence speaks of; None where nothing was measured.
        sentence: The answer.
        more: Further sentences, each complete in itself.
    """

    verdict: Verdict
    shots: int | None
    sentence: str
    more: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The verdict in a few words."""
        match self.verdict:
            case "gain":
                return "The shared model helps"
            case "loss":
                return "The shared model does not help: it does worse"
            case "unclear":
                return "No clear difference"
            case "no comparison":
                return "Measured, without a comparison"
            case "nothing measured":
                return "Nothing could be measured"


def answer(report: Report) -> Answer:
    """Return the answer of a report; it may be a bad one."""
    shots = headline_shots(report)
    sites = _sites_at(report, shots)
    if shots is None or not sites:
        reasons = "; ".join(f"{row.site}: {row.reason}" for row in report.left_out[:3])
        return Answer(
            "nothing measured",
            None,
            "No hospital had enough labelled patients to measure the shared model"
            + (f" ({reasons})." if reasons else "."),
        )
    site = sites[0] if len(sites) == 1 else None
    measured = _measured(report, site, report.method, shots)
    assert measured is not None
    difference = baseline = None
    if report.baseline is not None:
        difference = report.difference(site, report.baseline, shots)
        baseline = _measured(report, site, report.baseline, shots)
    verdict = "no comparison" if difference is None else verdict_of(difference)
    return Answer(
        verdict=verdict,
        shots=shots,
        sentence=_sentence(report, shots, sites, measured, baseline, difference),
        more=_more(report, shots, site, sites),
    )


def headline_shots(report: Report) -> int | None:
    """Return the shot count that the answer speaks of: 5, or the nearest that was measured."""
    measured = sorted({row.shots for row in report.evaluation if _is_main(report, row)})
    return min(measured, key=lambda k: (abs(k - PREFERRED_SHOTS), k), default=None)


def verdict_of(row: ComparisonRow) -> Verdict:
    """Return which way the interval of a difference points."""
    if row.ci95 is not None and row.ci95[0] > 0:
        return "gain"
    if row.ci95 is not None and row.ci95[1] < 0:
        return "loss"
    return "unclear"


def _is_main(report: Report, row: EvaluationRow) -> bool:
    return row.method == report.method and row.metric == "accuracy" and row.mean is not None


def _sites_at(report: Report, shots: int | None) -> list[str]:
    return [row.site for row in report.evaluation if _is_main(report, row) and row.shots == shots]


def _measured(
    report: Report, site: str | None, method: str, shots: int
) -> EvaluationRow | PooledRow | None:
    if site is None:
        return report.pooled_row(method, shots)
    return report.row(site, method, shots)


def _sentence(
    report: Report,
    shots: int,
    sites: list[str],
    measured: EvaluationRow | PooledRow,
    baseline: EvaluationRow | PooledRow | None,
    difference: ComparisonRow | None,
) -> str:
    digits = _digits(measured, baseline, difference)
    assert measured.mean is not None
    text = (
        f"With {counted(shots, 'labelled image')} per finding, the shared model was right in "
        f"{percent(measured.mean, digits)}% "
        f"(95% interval {percent_interval(measured.ci95, digits)}) of cases {_where(sites)}"
    )
    if baseline is None or difference is None or difference.difference is None:
        return text + "."
    reference = report.method_named(difference.reference)
    text += (
        f", against {percent(baseline.mean, digits)}% "
        f"({percent_interval(baseline.ci95, digits)}) {reference.in_words}: "
    )
    size, interval = _unsigned(difference.difference, difference.ci95, digits)
    match verdict_of(difference):
        case "gain":
            return f"{text}a gain of {size} points ({interval})."
        case "loss":
            return f"{text}a loss of {size} points ({interval})."
        case _:
            signed = points(difference.difference, digits)
            return (
                f"{text}a difference of {signed} points "
                f"({_signed_interval(difference.ci95, digits)}), which may be chance."
            )


def _where(sites: list[str]) -> str:
    if len(sites) == 1:
        return f"at hospital {sites[0]}"
    return f"on average over the {len(sites)} hospitals that took no part in the training"


def _more(report: Report, shots: int, site: str | None, sites: list[str]) -> tuple[str, ...]:
    sentences = [_void_rounds(report), _guessing(report, shots, sites)]
    if site is None:
        sentences.append(_worst(report, shots))
    sentences += [
        _against(method, row)
        for method in report.references
        if method.name != report.baseline
        and (row := report.difference(site, method.name, shots)) is not None
    ]
    durations = [
        row.adapt_seconds
        for row in report.evaluation
        if _is_main(report, row) and row.shots == shots and row.adapt_seconds is not None
    ]
    if durations:
        slowest = seconds(max(durations))
        sentences.append(
            f"From {counted(shots, 'image')} per finding to a working model took {slowest} "
            "(median) on the machine that measured."
        )
    return tuple(sentence for sentence in sentences if sentence)


def _void_rounds(report: Report) -> str:
    """Say where the shared model learned in fewer rounds than were played, or in none."""
    void = sum(event.void for event in report.training)
    if not void:
        return ""
    if void == len(report.training):
        return (
            "The shared model has learned nothing: in every round of its training too few updates "
            "were admitted."
        )
    return (
        f"{void} of the {len(report.training)} rounds of its training did not count: too few "
        "updates were admitted."
    )


def _guessing(report: Report, shots: int, sites: list[str]) -> str:
    rows = [row for name in sites if (row := report.row(name, report.method, shots))]
    ways = sorted({row.n_way for row in rows})
    if len(ways) == 1:
        return (
            f"Each case is one of {ways[0]} findings, equally often; guessing would be right in "
            f"{percent(1 / ways[0], 0)}%."
        )
    return (
        f"Each case is one of {ways[0]} to {ways[-1]} findings, depending on the hospital; "
        f"guessing would be right in {percent(1 / ways[-1], 0)}% to {percent(1 / ways[0], 0)}%."
    )


def _worst(report: Report, shots: int) -> str:
    pooled = report.pooled_row(report.method, shots)
    if pooled is None:
        return ""
    row = report.row(pooled.worst_site, report.method, shots)
    interval = f" ({percent_interval(row.ci95, 0)})" if row else ""
    return f"It did worst at {pooled.worst_site}: {percent(pooled.worst_mean, 0)}%{interval}."


def _against(method: MethodSummary, row: ComparisonRow) -> str:
    assert row.difference is not None
    digits = _digits_of_difference(row)
    size, interval = _unsigned(row.difference, row.ci95, digits)
    match verdict_of(row):
        case "gain":
            return f"Compared with {method.label}: {size} points better ({interval})."
        case "loss":
            return (
                f"Compared with {method.label}: {size} points worse ({interval}). "
                f"{method.label} is the better choice at these hospitals."
            )
        case _:
            return (
                f"Compared with {method.label}: {points(row.difference, digits)} points "
                f"({_signed_interval(row.ci95, digits)}), which may be chance."
            )


def _unsigned(difference: float, ci95: Interval | None, digits: int) -> tuple[str, str]:
    """Return the size of a gain or loss and its interval, smaller end first, without signs."""
    if ci95 is None:
        return percent(abs(difference), digits), "interval unknown"
    low, high = sorted(abs(end) for end in ci95)
    return percent(abs(difference), digits), percent_interval((low, high), digits)


def _signed_interval(ci95: Interval | None, digits: int) -> str:
    return "interval unknown" if ci95 is None else " to ".join(points(e, digits) for e in ci95)


def _digits(
    measured: EvaluationRow | PooledRow,
    baseline: EvaluationRow | PooledRow | None,
    difference: ComparisonRow | None,
) -> int:
    """Return 0 where whole per cent add up as the reader will add them, else 1."""
    if baseline is None or difference is None:
        return 0
    if measured.mean is None or baseline.mean is None or difference.difference is None:
        return 0
    shown = [round(100 * x) for x in (measured.mean, baseline.mean, difference.difference)]
    return max(int(shown[0] - shown[1] != shown[2]), _digits_of_difference(difference))


def _digits_of_difference(row: ComparisonRow) -> int:
    """Return 1 where an end of the interval would be shown as 0 and is not."""
    ends = row.ci95 or ()
    return int(any(round(100 * end) == 0 and abs(end) > 0 for end in ends))
