"""From results of trainings to the lines of the table, each beside what papers report."""

from collections.abc import Sequence
from typing import Any

from omniglot.episodes import Setting
from omniglot.published import PUBLISHED, SETTINGS
from omniglot.recipe import Row
from omniglot.scoring import mean_and_reach


def lines_of(row: Row, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row's lines of the table, one for each column that was scored.

    Over several seeds, the accuracy in an episode is the mean over them: the interval is over
    episodes, which the seeds share.
    """
    lines = []
    for column in SETTINGS:
        trained = [result for result in results if str(column) in result["accuracies"]]
        if trained:
            by_seed = [result["accuracies"][str(column)] for result in trained]
            lines.append(
                {"row": row.name, "title": row.title, "column": str(column)}
                | _ours(by_seed)
                | _cost(trained)
                | {"published": beside(row.published, column, _ours(by_seed))}
            )
    return lines


def _ours(by_seed: Sequence[Sequence[float]]) -> dict[str, Any]:
    episodes = [sum(of_one) / len(of_one) for of_one in zip(*by_seed, strict=True)]
    accuracy, reach = mean_and_reach(episodes)
    return {
        "accuracy": round(100 * accuracy, 2),
        "reach": round(100 * reach, 2),
        "by_seed": [round(100 * mean_and_reach(of_seed)[0], 2) for of_seed in by_seed],
        "episodes": len(episodes),
    }


def _cost(trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    training = trained[0]["training"]
    cost = "cpu_s" if "cpu_s" in trained[0] else "device_s"
    return {
        "planned_steps": training["study"]["rounds"],
        "budget_cpu_s": training["budget_s"],
        "steps": [result["steps"] for result in trained],
        cost: [result[cost] for result in trained],
        "scoring_cpu_s": [result["scoring_cpu_s"] for result in trained],
        "wall_s": [result["wall_s"] for result in trained],
        "training": training,
    }


def beside(keys: Sequence[str], column: Setting, ours: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the published figures for a column, and where ours stands to each."""
    found = []
    for key in keys:
        published = PUBLISHED[key]
        figure = published.at(column)
        if figure is not None:
            difference = round(ours["accuracy"] - figure[0], 2)
            found.append(
                {
                    "method": published.method,
                    "source": published.source,
                    "transductive": published.transductive,
                    "checked": column not in published.unchecked,
                    "accuracy": figure[0],
                    "reach": figure[1],
                    "difference": difference,
                    "verdict": verdict(difference, figure[1], ours["reach"]),
                }
            )
    return found


def verdict(difference: float, published_reach: float | None, our_reach: float) -> str:
    """Return "within" the published interval, "above" or "below" it.

    Where the paper gives no interval, ours stands in for it.
    """
    reach = our_reach if published_reach is None else published_reach
    if abs(difference) <= reach:
        return "within"
    return "above" if difference > 0 else "below"


def figure_text(figure: dict[str, Any]) -> str:
    """Return accuracy and reach with two digits, as in 98.70 +/- 0.40."""
    text = f"{figure['accuracy']:.2f}"
    return text if figure["reach"] is None else f"{text} ± {figure['reach']:.2f}"
