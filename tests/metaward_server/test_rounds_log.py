"""rounds.jsonl: every round once."""

import errno
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metaward.errors import FederationError
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


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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


def test_a_line_that_the_disk_takes_in_part_is_not_there_and_the_next_stands_alone(
    log: RoundsLog,
) -> None:
    log.append(event(0))
    with files_end_at(log.path.stat().st_size + 40), pytest.raises(OSError) as raised:  # noqa: PT011 (the number says which)
        log.append(event(1))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(log.path))
    assert rounds_in(log) == [0]
    log.append(event(1))
    assert rounds_in(log) == [0, 1]


BROKEN = {
    "two lines in one": b'{"round_index": 1, "n_ro{"round_index": 2}\n',
    "no object": b"[]\n",
    "no round": b"{}\n",
    "no number": b'{"round_index": "1"}\n',
    "no text": b"\0\xff\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_line_that_may_be_a_closed_rounds_is_an_error_and_nothing_is_dropped(
    log: RoundsLog, kind: str
) -> None:
    log.append(event(0))
    before = log.path.read_bytes() + BROKEN[kind]
    log.path.write_bytes(before)
    with pytest.raises(FederationError, match=r"line 2 cannot be read; expected .* 2 closed"):
        log.cut_from(2)
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_line_beyond_all_closed_rounds_is_dropped(log: RoundsLog, kind: str) -> None:
    log.append(event(0))
    log.path.write_bytes(log.path.read_bytes() + BROKEN[kind])
    log.append(event(2))
    log.cut_from(1)
    assert rounds_in(log) == [0]


def test_a_log_that_is_not_there_yet_is_begun_empty(log: RoundsLog) -> None:
    log.cut_from(0)
    assert log.path.read_text() == ""
