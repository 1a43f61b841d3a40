"""From results of trainings to the lines of the federated table, each beside fine-tuned FedAdam."""

from collections.abc import Sequence
from typing import Any

from omniglot.federated_rows import BASELINE, FederatedPlan
from omniglot.scoring import mean_and_reach


def lines_of(
    plans: Sequence[FederatedPlan], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a line for each way to answer and each number of shots.

    A client's accuracy is the mean over seeds. Means and intervals are over clients, and so is the
    difference to the baseline, which all lines have answered at the same clients.
    """
    cells = {
        (answer.title, n_shot): [
            found for found in results if str(n_shot) in found["accuracies"].get(answer.title, ())
        ]
        for plan in plans
        for answer in plan.answers
        for n_shot in plan.shots
    }
    by_client = {cell: _by_client(*cell, trained) for cell, trained in cells.items() if trained}
    return [
        {"title": title, "shots": n_shot, "clients": len(ours)}
        | _in_per_cent(ours)
        | {"by_seed": _by_seed(title, n_shot, cells[title, n_shot])}
        | {"gain": _gain(title, ours, by_client.get((BASELINE, n_shot)))}
        | _cost(cells[title, n_shot])
        for (title, n_shot), ours in by_client.items()
    ]


def _of_seeds(title: str, n_shot: int, trained: Sequence[dict[str, Any]]) -> list[list[float]]:
    return [result["accuracies"][title][str(n_shot)] for result in trained]


def _by_client(title: str, n_shot: int, trained: Sequence[dict[str, Any]]) -> list[float]:
    seeds = _of_seeds(title, n_shot, trained)
    return [sum(of_one) / len(of_one) for of_one in zip(*seeds, strict=True)]


def _by_seed(title: str, n_shot: int, trained: Sequence[dict[str, Any]]) -> list[float]:
    seeds = _of_seeds(title, n_shot, trained)
    return [_in_per_cent(of_seed)["accuracy"] for of_seed in seeds]


def _gain(
    title: str, ours: Sequence[float], baseline: Sequence[float] | None
) -> dict[str, float] | None:
    """Return how many points better than the baseline; None for itself, and where it is absent."""
    if baseline is None or title == BASELINE:
        return None
    return _in_per_cent([one - other for one, other in zip(ours, baseline, strict=True)])


def _in_per_cent(values: Sequence[float]) -> dict[str, float]:
    mean, reach = mean_and_reach(values)
    return {"accuracy": round(100 * mean, 2), "reach": round(100 * reach, 2)}


def _cost(trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rounds": [result["steps"] for result in trained],
        "cpu_s": [result["cpu_s"] for result in trained],
        "training": trained[0]["training"],
    }
