"""rounds.jsonl: every round once."""

import json
from pathlib import Path

import pytest

from metaward.progress import RoundEvent
from metaward_server.rounds_log import RoundsLog


@pytest.fixture
def log(tmp_path: Path) -> RoundsLog:
    return RoundsLog(tmp_path / "rounds.jsonl")


def rounds_in(log: RoundsLog) -> list[int]:
    return [json.loads(line)["round_index"] for line in log.path.read_text().splitlines()]


def event(index: int) -> RoundEvent:
    return RoundEvent(
        index,
        9,
        asked=4,
        admitted=3,
        refused={"norm": 1},
        refused_nodes={"norm": [2]},
        promises={"4": {"mechanism": "none"}},
        delta_norm=0.5,
    )


def test_a_line_says_all_that_the_coordinator_knows_of_the_round(log: RoundsLog) -> None:
    log.append(event(0))
    assert json.loads(log.path.read_text()) == {
        "round_index": 0,
        "n_rounds": 9,
        "asked": 4,
        "admitted": 3,
        "refused": {"norm": 1},
        "refused_nodes": {"norm": [2]},
        "void": False,
        "delta_norm": 0.5,
        "seconds": 0.0,
        "overhead_s": 0.0,
        "promises": {"4": {"mechanism": "none"}},
        "closed_at": None,
    }


def test_rounds_beyond_the_checkpoint_are_cut(log: RoundsLog) -> None:
    for index in range(5):
        log.append(event(index))
    log.cut_from(3)
    assert rounds_in(log) == [0, 1, 2]
    log.append(event(3))
    assert rounds_in(log) == [0, 1, 2, 3]


def test_a_half_written_line_is_dropped(log: RoundsLog) -> None:
    log.append(event(0))
    with log.path.open("a") as file:
        file.write('{"round_index": 1, "n_ro')
    log.cut_from(7)
    assert rounds_in(log) == [0]


def test_a_log_that_is_not_there_yet_is_begun_empty(log: RoundsLog) -> None:
    log.cut_from(0)
    assert log.path.read_text() == ""
