"""A simulation that is stopped is resumed where it stood, and ends at the same bytes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tiny_run import METAWARD, ROUNDS, TinyRun, figures, metaward, weights, write_scenario

KILLED_WITHIN_S = 120.0


def start(scenario: Path, out: Path) -> "subprocess.Popen[bytes]":
    """Start a simulation in a process group of its own."""
    with Path(os.devnull).open("wb") as nowhere, (out.parent / "err").open("wb") as err:
        return subprocess.Popen(
            [METAWARD, "simulate", scenario, "--out", out],
            stdout=nowhere,
            stderr=err,
            start_new_session=True,
        )


def wait_for_a_round(run: Path, process: "subprocess.Popen[bytes]") -> None:
    """Return as soon as one round is closed."""
    until = time.monotonic() + KILLED_WITHIN_S
    rounds = run / "rounds.jsonl"
    while not (rounds.exists() and rounds.stat().st_size):
        assert process.poll() is None, "the simulation ended before its first round"
        assert time.monotonic() < until
        time.sleep(0.002)


def test_killed_while_training_and_resumed_it_ends_at_the_same_bytes(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(write_scenario(tmp_path / "tiny.yaml"), out)
    try:
        wait_for_a_round(out, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "model").exists()
    n_closed = len((out / "rounds.jsonl").read_text().splitlines())
    assert 1 <= n_closed < ROUNDS

    resumed = metaward("simulate", "--resume", out, "--json")
    assert resumed.code == 0, resumed.err
    assert weights(out) == weights(tiny_run.path)
    assert [row["round_index"] for row in json.loads(resumed.out)["training"]] == list(
        range(ROUNDS)
    )
    one, other = figures(tiny_run.report), figures(json.loads(resumed.out))
    assert other["evaluation"] == one["evaluation"]
    assert other["comparison"] == one["comparison"]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_going_on_works(tmp_path: Path, tiny_run: TinyRun) -> None:
    out = tmp_path / "run"
    process = start(write_scenario(tmp_path / "tiny.yaml"), out)
    try:
        wait_for_a_round(out, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        assert process.wait(timeout=60) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    err = (tmp_path / "err").read_text()
    assert f"Go on with:  metaward simulate --resume {out}" in err
    assert err.endswith("Interrupted.\n")
    assert "Traceback" not in err
    assert metaward("simulate", "--resume", out).code == 0
    assert weights(out) == weights(tiny_run.path)
