"""An interrupted table of accuracy against epsilon goes on with what it has, and with no other."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import bench_privacy
import figures
from metaward.provenance import commit
from metaward_sim.demo_data import write_demo
from private_training import run

SETTING = {"data": "hospitals", "quick": False}


def arguments(seeds: int) -> argparse.Namespace:
    return argparse.Namespace(
        held_out="", size=16, channels=1, quick=False, rounds=1, episodes=2, start=None,
        epsilon=8.0, rows="prototypical/dp-sgd", seeds=seeds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_demo(folder, hospitals=3, patients=16)
    return folder


def file_of(runs: list[dict[str, Any]], **changes: object) -> dict[str, Any]:
    """Return a benchmark's file as it is read again."""
    content = {"commit": commit(), "results": {"setting": SETTING, "runs": runs}} | changes
    return json.loads(json.dumps(content))


def test_a_run_is_known_again_as_the_job_that_it_came_from(hospitals: Path) -> None:
    jobs = bench_privacy.jobs_of(hospitals, arguments(seeds=1))
    assert len({bench_privacy.key_of(job) for job in jobs}) == len(jobs)
    for job in jobs[:2]:  # the untrained model, and one that was trained
        written = json.loads(json.dumps(run(job)))
        assert bench_privacy.job_of(written) == bench_privacy.key_of(job)


def test_of_a_file_those_runs_are_kept_that_are_asked_for(hospitals: Path) -> None:
    two, one = (bench_privacy.jobs_of(hospitals, arguments(seeds=seeds)) for seeds in (2, 1))
    runs = [{"rounds": 0, "seed": seed} for seed in (0, 1)]
    for jobs, kept in ((two, runs), (one, runs[:1])):
        assert bench_privacy.runs_to_keep(file_of(runs), {"setting": SETTING}, jobs) == kept
    assert bench_privacy.runs_to_keep(None, {"setting": SETTING}, two) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"commit": "0" * 40}, "commit is 0+; expected"),
        ({"results": {"setting": {}, "runs": []}}, "setting is {}; expected {'data'"),
        (
            {"results": {"setting": SETTING, "start_sha256": "ab", "runs": []}},
            "start is ab; expected None",
        ),
    ],
)
def test_a_file_of_another_commit_or_setting_is_not_mixed_in(
    changes: dict[str, Any], words: str, hospitals: Path
) -> None:
    jobs = bench_privacy.jobs_of(hospitals, arguments(seeds=1))
    with pytest.raises(SystemExit, match=f"--resume: the file's {words}"):
        bench_privacy.runs_to_keep(file_of([], **changes), {"setting": SETTING}, jobs)


def test_what_was_saved_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "OUT", tmp_path)
    assert figures.saved("bench_privacy_mine.py") is None
    figures.save("bench_privacy_mine.py", {"runs": [1]}, quiet=True)
    found = figures.saved("bench_privacy_mine.py")
    assert found is not None
    assert (found["results"], found["commit"]) == ({"runs": [1]}, commit())
