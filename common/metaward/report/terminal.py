"""The report on the terminal: the answer, then one table. Fits in 80 columns."""

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from metaward.report.answer import Answer, Verdict, answer
from metaward.report.schema import EvaluationRow, PooledRow, Report
from metaward.report.wording import percent

COLOURS: dict[Verdict, str] = {
    "gain": "green",
    "loss": "red",
    "unclear": "yellow",
    "no comparison": "cyan",
    "nothing measured": "red",
}

ALL_HOSPITALS = "mean"


def print_report(report: Report, console: Console) -> None:
    """Print the answer in sentences and every accuracy with its interval."""
    said = answer(report)
    console.print(_answer(said))
    if said.shots is not None:
        console.print(_table(report))
        console.print(
            "Right answers in per cent with the 95% interval over patients and episodes.",
            style="dim",
        )
    for row in report.left_out:
        console.print(f"Not measured: {row.site}, {row.shots} images: {row.reason}.", markup=False)
    style = "" if report.privacy.is_private else "bold yellow"
    console.print(report.privacy.sentence, style=style, markup=False)
    if report.synthetic_data:
        console.print("The images were synthetic: these figures say nothing about patients.")


def _answer(said: Answer) -> Group:
    colour = COLOURS[said.verdict]
    lines = [Text(said.heading, style=f"bold {colour}"), Text(said.sentence)]
    lines += [Text(f"- {sentence}") for sentence in said.more]
    return Group(*lines, Text())


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("hospital", overflow="fold", max_width=16)
    table.add_column("images", justify="right")
    for method in report.methods:
        main = method.name == report.method
        table.add_column(escape(method.label), style="bold" if main else "", overflow="fold")
    several = len(report.measured_sites) > 1
    for site in (*report.measured_sites, *([None] if several else [])):
        shown = ""
        for shots in report.measured_shots:
            cells = [
                report.row(site, method.name, shots)
                if site is not None
                else report.pooled_row(method.name, shots)
                for method in report.methods
            ]
            if not any(cells):
                continue
            name = site if site is not None else _mean_of(cells, report)
            table.add_row(
                escape(name) if name != shown else "", str(shots), *(_cell(c) for c in cells)
            )
            shown = name
        table.add_section()
    return table


def _cell(row: EvaluationRow | PooledRow | None) -> str:
    if row is None:
        return "-"
    interval = "" if row.ci95 is None else f" ({'-'.join(percent(e, 0) for e in row.ci95)})"
    return percent(row.mean, 0) + interval


def _mean_of(cells: list[EvaluationRow | PooledRow | None], report: Report) -> str:
    """Name the mean, and say so where it leaves hospitals out."""
    total = len(report.measured_sites)
    there = next((len(row.sites) for row in cells if isinstance(row, PooledRow)), total)
    return ALL_HOSPITALS if there == total else f"{ALL_HOSPITALS} ({there} of {total})"
