"""Write the tables of results in the pages from the files in docs/results.

Usage: python scripts/update_readme.py [--check]

Each block between `<!-- results: NAME -->` and `<!-- end -->` is made from docs/results/NAME.json,
a report.json as `metaward simulate` wrote it; a block that begins with `<!-- privacy: NAME -->`
from the figures of `benchmarks/bench_privacy.py` (`privacy-short`: of several files, with blanks
between their names), with `<!-- papers: NAME -->` from those of
`benchmarks/paper_tables.py` (`papers-short`: a row for each learner; both of several files too, of
which a later one's learners take the place of an earlier one's), with `<!-- clients: NAME -->`
from `benchmarks/federated_table.py`, and with `<!-- medical: NAME -->` from
`benchmarks/bench_medical.py`.
With --check nothing is written, and the exit code is 1 when a page is not what the files say.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clients_table import clients_table
from medical_table import medical_table
from metaward.report.answer import answer
from metaward.report.schema import Report, read_report_json
from paper_table import paper_table, short_table
from privacy_table import privacy_summary, privacy_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/privacy.md", "docs/privacy-accuracy.md", "docs/paper-tables.md")
BLOCK = re.compile(
    r"(<!-- (?P<kind>[a-z-]+): (?P<names>[a-z0-9 -]+?) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)


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


def _content(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _summary(paths: Sequence[Path]) -> str:
    return privacy_summary({path.stem: _content(path) for path in paths})


def _of_one(table_of: Callable[[Path], str]) -> Callable[[Sequence[Path]], str]:
    def of_the_only_one(paths: Sequence[Path]) -> str:
        [path] = paths
        return table_of(path)

    return of_the_only_one


TABLES: dict[str, Callable[[Sequence[Path]], str]] = {
    "results": _of_one(lambda path: table(read_report_json(path))),
    "privacy": _of_one(lambda path: privacy_table(_content(path))),
    "privacy-short": _summary,
    "papers": lambda paths: paper_table([_content(path) for path in paths]),
    "papers-short": lambda paths: short_table([_content(path) for path in paths]),
    "clients": _of_one(lambda path: clients_table(_content(path))),
    "medical": _of_one(lambda path: medical_table(_content(path))),
}


def updated(text: str) -> str:
    """Return a page's text with every block made anew."""
    results = ROOT / "docs" / "results"

    def block(match: re.Match[str]) -> str:
        paths = [results / f"{name}.json" for name in match["names"].split()]
        return f"{match[1]}\n{TABLES[match['kind']](paths)}\n\n{match[4]}"

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
