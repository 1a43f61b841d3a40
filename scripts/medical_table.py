"""The medical table of docs/paper-tables.md, from `benchmarks/bench_medical.py`'s figures."""

from collections import defaultdict
from statistics import fmean
from typing import Any


def medical_table(content: dict[str, Any]) -> str:
    """Return accuracies at domains left out as a Markdown table, then where they come from."""
    results = content["results"]
    runs = results["runs"]
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    ways: dict[str, int] = {}
    reaches = []
    for run in runs:
        for score in run["scores"]:
            found[run["row"], score["site"], score["shots"]].append(score["accuracy"])
            ways[score["site"]] = score["n_way"]
            reaches.append((score["high"] - score["low"]) / 2)
    shots = sorted({k for *_, k in found})
    seconds = defaultdict(list)
    for run in runs:
        seconds[run["row"]].append(run["training_cpu_seconds"])
    table = [
        "| learner | " + " | ".join(f"{site}, {ways[site]}-way" for site in ways) + " | CPU s |",
        "| --- " * (2 + len(ways)) + "|",
    ]
    for row in seconds:
        cells = [_cell([found.get((row, site, k), []) for k in shots]) for site in ways]
        table.append(f"| {row} | " + " | ".join(cells) + f" | {max(seconds[row]):.0f} |")
    seeds = len({run["seed"] for run in runs})
    said = "One seed" if seeds == 1 else f"Mean of {seeds} seeds"
    left_out = "" if len(runs) == results["of"] else f" {results['of'] - len(runs)} were not run."
    return "\n".join(
        [
            *table,
            "",
            f"Right answers in per cent with {', '.join(map(str, shots))} images per finding to "
            "adapt on; — where a site has too few. 95% intervals over patients and episodes reach "
            f"up to {100 * max(reaches):.0f} points to either side, {100 * fmean(reaches):.0f} in "
            f"the mean. {said}; {runs[0]['rounds']} rounds. CPU seconds are those of the longest "
            f"training.{left_out}",
            "",
            f"`{content['command']}`, commit `{content['commit'][:12]}`, {content['machine']}.",
        ]
    )


def _cell(by_shots: list[list[float]]) -> str:
    return " / ".join(f"{100 * fmean(found):.1f}" if found else "—" for found in by_shots)
