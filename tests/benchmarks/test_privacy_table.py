"""Accuracy against epsilon: what stands beside what, and how sure a difference is."""

from typing import Any

import pytest

from privacy_table import lost, privacy_summary, privacy_table

OWN, CLIPPED = {"name": "sgd"}, {"name": "adam"}


def training(epsilon: float | None, seed: int, accuracy: float, **others: Any) -> dict[str, Any]:
    return {
        "learner": "reptile",
        "mechanism": "dp-sgd",
        "target_epsilon": epsilon,
        "noise_only": False,
        "outer": CLIPPED,
        "rounds": 40,
        "filters": 16,
        "sites": {"north": accuracy},
        "seed": seed,
        "accuracy": accuracy,
    } | others


def figures(*runs: dict[str, Any]) -> dict[str, Any]:
    untrained = training(None, 0, 0.2, rounds=0)
    said = {"command": "python bench.py", "commit": "0123456789abcdef", "machine": "2 cores"}
    return said | {"results": {"of": 0, "runs": [untrained, *runs]}}


def row_of(page: str) -> list[str]:
    return next(line for line in page.splitlines() if line.startswith("| reptile")).split(" | ")


def test_lost_is_the_mean_difference_within_seeds_with_its_t_interval() -> None:
    # differences 2, 4, 6: mean 4, sd 2, and t of 2 degrees of freedom is 4.303
    assert lost([60.0, 62.0, 64.0], [58.0, 58.0, 58.0]) == "4.0 (-1.0 to 9.0)"


def test_what_all_seeds_share_does_not_widen_the_interval() -> None:
    assert lost([50.0, 60.0, 70.0], [49.0, 58.0, 67.0]) == "2.0 (-0.5 to 4.5)"


def test_two_trainings_have_no_interval() -> None:
    assert lost([60.0, 62.0], [58.0, 58.0]) == "3.0"


def test_trainings_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        lost([60.0, 62.0, 61.0], [58.0, 58.0])


def test_trainings_are_paired_by_their_seed_wherever_they_stand_in_the_file() -> None:
    runs = [training(None, seed, 0.60 + seed / 100) for seed in range(3)]
    runs += [training(8.0, seed, 0.55 + seed / 100) for seed in (2, 0, 1)]
    runs += [training(8.0, seed, 0.30, noise_only=True) for seed in range(3)]
    assert row_of(privacy_table(figures(*runs)))[-1] == "5.0 (5.0 to 5.0) |"


def test_without_privacy_the_better_outer_step_counts_and_the_control_stands_in_brackets() -> None:
    page = privacy_table(
        figures(
            *(training(None, seed, 0.50 + seed / 100, outer=OWN) for seed in range(3)),
            *(training(None, seed, 0.60 + seed / 100) for seed in range(3)),
            *(training(8.0, seed, 0.55) for seed in range(3)),
            *(training(8.0, seed, 0.30, noise_only=True) for seed in range(3)),
        )
    )
    assert row_of(page)[2:] == ["61.0", "55.0 (30.0)", "6.0 (3.5 to 8.5) |"]
    assert "untrained: 20.0. Mean of 3 seeds" in page


def test_a_summary_has_the_rows_of_all_files_with_their_hospitals() -> None:
    few = figures(
        training(None, 0, 0.60),
        training(8.0, 0, 0.55),
        training(8.0, 0, 0.30, noise_only=True),
        training(1.0, 0, 0.35),
        training(1.0, 0, 0.25, noise_only=True),
    )
    many = figures(
        *(training(None, seed, 0.70, learner="fedavg") for seed in range(3)),
        *(training(8.0, seed, 0.68, learner="fedavg") for seed in range(3)),
        *(training(8.0, seed, 0.20, learner="fedavg", noise_only=True) for seed in range(3)),
    )
    lines = privacy_summary({"privacy-demo-large-2": few, "privacy-real": many}).splitlines()
    assert lines[2:] == [
        "| synthetic, 9,000 patients | reptile | dp-sgd | 1 | 60.0 | 55.0 (30.0) |  | 35.0 (25.0) "
        "| 5.0 |",
        "| real data sets | fedavg | dp-sgd | 3 | 70.0 | 68.0 (20.0) |  |  | 2.0 (2.0 to 2.0) |",
    ]
