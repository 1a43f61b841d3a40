"""The tables of docs/privacy.md and privacy-accuracy.md, from `bench_privacy.py`'s figures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

Cell = tuple[str, str, float | None, bool]
"""Learner, mechanism, epsilon (None: not private), and whether there was noise alone."""

FEWEST = 3
"""Trainings behind an interval."""


def privacy_table(content: dict[str, Any]) -> str:
    """Return accuracy against epsilon as a Markdown table, then where the figures come from."""
    runs = content["results"]["runs"]
    accuracies = _accuracies(runs)
    budgets = _budgets(accuracies)
    heads = [f"epsilon {budget:g} (noise alone)" for budget in budgets]
    lines = [
        f"| learner | mechanism | not private | {' | '.join(heads)} | lost at {budgets[0]:g} |",
        "| --- " * (4 + len(heads)) + "|",
    ]
    for learner, mechanism in dict.fromkeys(cell[:2] for cell in accuracies):
        cells = _cells(accuracies, learner, mechanism, budgets)
        lines.append(f"| {learner} | {mechanism} | {' | '.join(cells)} |")
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


HOSPITALS = {
    "privacy-demo": "synthetic, 2,000 patients",
    "privacy-demo-large": "synthetic, 9,000 patients",
    "privacy-real": "real data sets",
}
"""By the beginning of a file's name; the longest that fits."""
BUDGETS = (8.0, 3.0, 1.0)


def privacy_summary(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a row for each learner and mechanism of several files, by name, as one table."""
    heads = [f"epsilon {budget:g} (noise alone)" for budget in BUDGETS]
    lines = [
        f"| hospitals | learner | mechanism | seeds | not private | {' | '.join(heads)} "
        f"| lost at {BUDGETS[0]:g} |",
        "| --- " * (6 + len(heads)) + "|",
    ]
    for name, content in contents.items():
        hospitals = HOSPITALS[max(filter(name.startswith, HOSPITALS), key=len)]
        accuracies = _accuracies(content["results"]["runs"])
        for learner, mechanism in dict.fromkeys(cell[:2] for cell in accuracies):
            n_seeds = len(accuracies[learner, mechanism, None, False])
            cells = _cells(accuracies, learner, mechanism, BUDGETS)
            lines.append(
                f"| {hospitals} | {learner} | {mechanism} | {n_seeds} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def _cells(
    accuracies: Mapping[Cell, list[float]], learner: str, mechanism: str, budgets: Sequence[float]
) -> list[str]:
    """Return a row's figures: not private, at each budget beside its control, and what is lost."""
    plain = accuracies[learner, mechanism, None, False]
    cells = [f"{fmean(plain):.1f}"]
    for budget in budgets:
        both = [accuracies.get((learner, mechanism, budget, only)) for only in (False, True)]
        means = [fmean(found) for found in both if found]
        cells.append("{:.1f} ({:.1f})".format(*means) if len(means) == len(both) else "")
    cells.append(lost(plain, accuracies[learner, mechanism, budgets[0], False]))
    return cells


def _budgets(accuracies: Mapping[Cell, list[float]]) -> list[float]:
    return sorted({cell[2] for cell in accuracies if cell[2] is not None}, reverse=True)


def lost(plain: Sequence[float], private: Sequence[float]) -> str:
    """Return the mean difference of trainings with the same seed, and its 95% t interval.

    >>> lost([60.0, 62.0, 64.0], [58.0, 58.0, 58.0])
    '4.0 (-1.0 to 9.0)'
    >>> lost([60.0, 62.0], [58.0, 58.0])
    '3.0'
    """
    differences = [a - b for a, b in zip(plain, private, strict=True)]
    mean, n = fmean(differences), len(differences)
    if n < FEWEST:
        return f"{mean:.1f}"
    half = float(stdtrit(n - 1, 0.975)) * stdev(differences) / n**0.5
    return f"{mean:.1f} ({mean - half:.1f} to {mean + half:.1f})"


def _accuracies(runs: Sequence[Mapping[str, Any]]) -> dict[Cell, list[float]]:
    """Return a figure for each seed, in their order; of two outer steps those of the better one."""
    by_outer: dict[tuple[Cell, str], list[float]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: int(run["seed"])):
        if run["rounds"]:
            cell = (run["learner"], run["mechanism"], run["target_epsilon"], run["noise_only"])
            by_outer[cell, str(run.get("outer"))].append(100 * run["accuracy"])
    best: dict[Cell, list[float]] = {}
    for (cell, _), found in by_outer.items():
        if fmean(found) > fmean(best.get(cell, [0.0])):
            best[cell] = found
    return best


def _seeds(accuracies: Mapping[Cell, list[float]]) -> str:
    """Return how many trainings a figure is the mean of, and how far they lie apart."""
    n_seeds = len(next(iter(accuracies.values())))
    if n_seeds == 1:
        return "One seed"
    spread = max(max(found) - min(found) for found in accuracies.values())
    interval = "; behind what is lost its 95% interval, paired by seed" if n_seeds >= FEWEST else ""
    return f"Mean of {n_seeds} seeds, which lie up to {spread:.0f} points apart{interval}"
