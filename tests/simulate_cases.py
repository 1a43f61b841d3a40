"""What tests of `metaward simulate` share: one round of the tiny scenario, or nothing of it."""

from pathlib import Path

import tiny_run
from tiny_run import Finished, metaward, write_scenario


def simulate(tmp_path: Path, *words: str | Path) -> Finished:
    """Simulate the tiny scenario into ``tmp_path/run``, with changes on the command line."""
    scenario = write_scenario(
        tmp_path / "tiny.yaml",
        rounds=1,
        learner={"name": "prototypical", "n_way": 2, "n_shot": 1, "n_query": 1, "episodes": 1},
        baselines={"methods": ["random"]},
        evaluation={"shots": [1], "n_query": 1, "episodes": 2},
    )
    return metaward("simulate", scenario, *words, "--out", tmp_path / "run", "--workers", "1")


def assert_refused(done: Finished, tmp_path: Path, code: int, *words: str) -> None:
    """Check the exit code, the words of the one screen, and that no run directory was left."""
    tiny_run.assert_refused(done, code, *words)
    assert not (tmp_path / "run").exists()
