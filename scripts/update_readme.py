"""Write the tables of results in the pages from the files in docs/results.

Usage: python scripts/update_readme.py [--check]

Each block between `<!-- results: NAME -->` and `<!-- end -->` is made from docs/results/NAME.json,
a report.json as `metaward simulate` wrote it; a block that begins with `<!-- privacy: NAME -->`
from the figures of `benchmarks/bench_privacy.py`, with `<!-- papers: NAME -->` from those of
`benchmarks/paper_tables.py` (`papers-short`: a row for each learner), with `<!-- clients: NAME -->`
from `benchmarks/federated_table.py`, and with `<!-- medical: NAME -->` from
`benchmarks/bench_medical.py`.
With --check nothing is written, and the exit code is 1 when a page is not what the files say.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from clients_table import clients_table
from medical_table import medical_table
from metaward.report.answer import answer
from metaward.report.schema import Report, read_report_json
from paper_table import paper_table, short_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/privacy.md", "docs/paper-tables.md")
BLOCK = re.compile(
    r"(<!-- (?P<kind>[a-z-]+): (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)

Cell = tuple[str, str, float | None, bool]
"""Learner, mechanism, epsilon (None: not private), and whether there was noise alone."""


def table(report: Report) -> str:
    """Return the accuracies of a report as a Markdown table, then its sentence and its source."""
    methods = list(report.methods)
    lines = [
        "| hospital | images per finding | " + " | ".join(m.label for m in methods) + " |",
        "| --- " * (len(methods) + 2) + "|",
    ]
    for site in report.measured_sites:
        for shots in report.measured_shots:
            rows = [report.row(site, method.name, shots) for method in methods]
            if all(row is None for row in rows):
                continue
            cells = [
                "not measured"
                if row is None or row.mean is None or row.ci95 is None
                else f"{100 * row.mean:.1f} ({100 * row.ci95[0]:.1f} to {100 * row.ci95[1]:.1f})"
                for row in rows
            ]
            lines.append(f"| {site} | {shots} | " + " | ".join(cells) + " |")
    said = answer(report)
    source = report.provenance
    seconds = sum(source.wall_seconds.values())
    return "\n".join(
        [
            "Right answers in per cent (95% interval, over patients and episodes):",
            "",
            *lines,
            "",
            said.sentence,
            "",
            *(f"- {line}" for line in said.more),
            "",
            f"`{source.command}`, seed {source.seeds.get('seed')}, commit `{source.commit[:12]}`, "
            f"{seconds:.0f} s on {source.machine}.",
        ]
    )


def privacy_table(content: dict[str, Any]) -> str:
    """Return accuracy against epsilon as a Markdown table, then where the figures come from."""
    runs = content["results"]["runs"]
    by_outer: dict[tuple[Cell, str], list[float]] = defaultdict(list)
    for run in runs:
        if run["rounds"]:
            cell = (run["learner"], run["mechanism"], run["target_epsilon"], run["noise_only"])
            by_outer[cell, str(run.get("outer"))].append(100 * run["accuracy"])
    accuracies: dict[Cell, list[float]] = {}
    for (cell, _), found in sorted(by_outer.items(), key=lambda item: fmean(item[1])):
        accuracies[cell] = found  # last: the better outer step, where both were tried
    accuracies = {cell: accuracies[cell] for cell, _ in by_outer}
    mean = {cell: fmean(found) for cell, found in accuracies.items()}
    budgets = sorted({cell[2] for cell in mean if cell[2] is not None}, reverse=True)
    heads = [f"epsilon {budget:g} (noise alone)" for budget in budgets]
    lines = [
        "| learner | mechanism | not private | " + " | ".join(heads) + " |",
        "| --- " * (3 + len(heads)) + "|",
    ]
    for learner, mechanism in dict.fromkeys(cell[:2] for cell in mean):
        cells = [f"{mean[learner, mechanism, None, False]:.1f}"]
        for budget in budgets:
            private, control = (mean[learner, mechanism, budget, only] for only in (False, True))
            cells.append(f"{private:.1f} ({control:.1f})")
        lines.append(f"| {learner} | {mechanism} | " + " | ".join(cells) + " |")
    untrained = [100 * run["accuracy"] for run in runs if not run["rounds"]]
    trained = next(run for run in runs if run["rounds"])
    begun = content["results"].get("start_sha256")
    before = f"the start as it came ({begun[:12]})" if begun else "untrained"
    return "\n".join(
        [
            *lines,
            "",
            f"5-shot accuracy in per cent, mean over {', '.join(trained['sites'])}; {before}: "
            f"{fmean(untrained):.1f}. {_seeds(accuracies)}, {trained['rounds']} rounds, "
            f"{trained['filters']} filters. `{content['command']}`, commit "
            f"`{content['commit'][:12]}`, {content['machine']}.",
        ]
    )


def _seeds(accuracies: Mapping[Cell, list[float]]) -> str:
    """Return how many trainings a figure is the mean of, and how far they lie apart."""
    n_seeds = len(next(iter(accuracies.values())))
    if n_seeds == 1:
        return "One seed"
    spread = max(max(found) - min(found) for found in accuracies.values())
    return f"Mean of {n_seeds} seeds, which lie up to {spread:.0f} points apart"


def _content(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


TABLES: dict[str, Callable[[Path], str]] = {
    "results": lambda path: table(read_report_json(path)),
    "privacy": lambda path: privacy_table(_content(path)),
    "papers": lambda path: paper_table(_content(path)),
    "papers-short": lambda path: short_table(_content(path)),
    "clients": lambda path: clients_table(_content(path)),
    "medical": lambda path: medical_table(_content(path)),
}


def updated(text: str) -> str:
    """Return a page's text with every block made anew."""
    results = ROOT / "docs" / "results"

    def block(match: re.Match[str]) -> str:
        path = results / f"{match['name']}.json"
        return f"{match[1]}\n{TABLES[match['kind']](path)}\n\n{match[4]}"

    return BLOCK.sub(block, text)


def main() -> int:
    """Write or check the pages."""
    stale = False
    for page in PAGES:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after = updated(before)
        stale |= before != after
        if "--check" not in sys.argv[1:]:
            path.write_text(after, encoding="utf-8")
    return int(stale and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
