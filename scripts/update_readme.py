"""Write the README's tables of results from the reports in docs/results.

Usage: python scripts/update_readme.py [--check]

Each block between `<!-- results: NAME -->` and `<!-- end -->` is made from docs/results/NAME.json,
a report.json as `metaward simulate` wrote it. With --check nothing is written, and the exit code
is 1 when the README is not what the reports say.
"""

import re
import sys
from pathlib import Path

from metaward.report.answer import answer
from metaward.report.schema import Report, read_report_json

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- results: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


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


def updated(text: str) -> str:
    """Return the README's text with every block made anew."""

    def block(match: re.Match[str]) -> str:
        report = read_report_json(ROOT / "docs" / "results" / f"{match['name']}.json")
        return f"{match[1]}\n{table(report)}\n\n{match[3]}"

    return BLOCK.sub(block, text)


def main() -> int:
    """Write or check the README."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = updated(before)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
