"""The medical table says what the figures say."""

from typing import Any

from medical_table import medical_table


def run(row: str, site: str, accuracies: dict[int, float], seed: int = 0, cpu_s: float = 1) -> Any:
    scores = [
        {"site": site, "shots": k, "accuracy": found, "low": found - 0.04, "high": found + 0.04,
         "n_way": 3}
        for k, found in accuracies.items()
    ]  # fmt: skip
    return {"row": row, "left_out": [site], "rounds": 60, "seed": seed,
            "training_cpu_seconds": cpu_s, "scores": scores}  # fmt: skip


def content(runs: list[Any], of: int) -> dict[str, Any]:
    return {"command": "python benchmarks/bench_medical.py", "commit": "0" * 40,
            "machine": "2 cores", "results": {"of": of, "runs": runs}}  # fmt: skip


def test_a_row_is_a_learner_and_a_column_a_site_that_was_left_out() -> None:
    runs = [
        run("MAML", "blood", {1: 0.5, 5: 0.625}, cpu_s=30),
        run("MAML", "chest", {1: 0.75}, cpu_s=20),
        run("FedAvg", "blood", {1: 0.4, 5: 0.6}),
    ]
    text = medical_table(content(runs, of=4))
    assert text.startswith("| learner | blood, 3-way | chest, 3-way | CPU s |\n")
    assert "| MAML | 50.0 / 62.5 | 75.0 / — | 30 |" in text
    assert "| FedAvg | 40.0 / 60.0 | — / — | 1 |" in text
    assert "with 1, 5 images per finding" in text
    assert "up to 4 points to either side" in text
    assert "One seed; 60 rounds." in text
    assert "1 were not run." in text
    assert text.endswith("`python benchmarks/bench_medical.py`, commit `000000000000`, 2 cores.")


def test_seeds_are_averaged_and_a_whole_table_says_nothing_of_missing_runs() -> None:
    runs = [run("MAML", "blood", {1: found}, seed) for seed, found in enumerate((0.5, 0.7))]
    text = medical_table(content(runs, of=2))
    assert "| MAML | 60.0 |" in text
    assert "Mean of 2 seeds" in text
    assert "not run" not in text
