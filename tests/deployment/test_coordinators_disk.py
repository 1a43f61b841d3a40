"""The disk of a coordinator whose study is running fills up, and is given room again."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from real_federation import COORDINATOR, NGINX, STUDY, Federation, federation, typed
from small_disk import SmallDisk, needs_a_disk, small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    needs_a_disk,
]
ROUNDS = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a small file system where the coordinator's folder will be."""
    with small_disk(tmp_path / COORDINATOR, size="64m") as made:
        yield made


def stands_still(made: Federation, for_s: float = 40.0) -> bool:
    before = made.rounds_done()
    time.sleep(for_s)
    return made.rounds_done() == before


def test_a_study_waits_while_the_coordinators_disk_is_full_and_goes_on_to_the_same_bits(
    tmp_path: Path, disk: SmallDisk
) -> None:
    study = STUDY.replace("rounds: 4", f"rounds: {ROUNDS}").replace("240", "900")
    with federation(tmp_path, study=study) as made:
        made.run()
        made.until_round(2)
        disk.fill()
        troubles = json.loads(typed("server", "status", made.coordinator, "--json"))["troubles"]
        assert any("the disk is full" in one for one in troubles)
        made.until(lambda: stands_still(made), "no further round")
        assert made.rounds_done() < ROUNDS
        disk.free()
        if made.state() == "failed":
            typed("server", "resume", made.coordinator, "first")
        made.until_finished()
    rounds = made.rounds()
    assert [one["round_index"] for one in rounds] == list(range(ROUNDS))
    assert not any(one["void"] for one in rounds)
    made.require_undisturbed()
