"""Training on DICOM hospitals is worth something at a hospital that took no part."""

from pathlib import Path

import pytest

from metaward.report.schema import read_report_json
from tiny_run import metaward, write_scenario


@pytest.mark.slow
def test_a_trained_start_clearly_beats_an_untrained_one_at_held_out_hospitals(
    tmp_path: Path,
) -> None:
    scenario = write_scenario(
        tmp_path / "small.yaml",
        rounds=150,
        hospitals={"synthetic": 4, "held_out": 2, "patients": 16},
        model={"filters": 16},
        learner={"name": "prototypical", "n_way": 5, "n_shot": 3, "n_query": 3, "episodes": 3},
        baselines={"methods": ["random"]},
        evaluation={"shots": [5], "n_query": 3, "episodes": 100},
    )
    done = metaward("simulate", scenario, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    report = read_report_json(tmp_path / "run/report.json")
    gain = report.difference(None, "random", shots=5)
    assert gain is not None
    assert gain.difference is not None
    assert gain.ci95 is not None
    assert gain.ci95[0] > 0, gain
    assert gain.difference > 0.05, gain  # measured: more than 0.1
    trained = report.pooled_row("meta", 5)
    assert trained is not None
    assert trained.mean is not None
    assert trained.mean > 1.5 * 0.2  # five findings; measured: 0.34
