"""The coordinator's disk runs full: the study stops with a reason, and goes on to the same bits."""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metaward.arrays import Arrays
from metaward.errors import FederationError
from metaward.progress import RoundEvent
from metaward.study import AdamSettings, Study
from metaward_server import study_run
from metaward_server.coordinator.home import (
    CoordinatorSettings,
    create,
    open_coordinator,
    renew_certificate,
)
from metaward_server.coordinator.troubles import require_disk, troubles
from metaward_server.study_run import run_study
from proxied_coordinator import NOW
from small_disk import SmallDisk, needs_a_disk, small_disk

pytestmark = needs_a_disk

STUDY = Study(seed=3, rounds=6, outer=AdamSettings(step_size=0.1))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def run(
    theta: Arrays, monkeypatch: pytest.MonkeyPatch, scripted_grid: Any, honest_node: Any
) -> Any:
    monkeypatch.setattr(study_run, "initial_theta", lambda _: theta)

    def play(
        folder: Path, on_round: Callable[[RoundEvent], None] = lambda _: None, resume: bool = False
    ) -> Arrays:
        grid = scripted_grid({1: honest_node, 2: honest_node})
        return run_study(grid, STUDY, folder, n_nodes=2, resume=resume, on_round=on_round)

    return play


@pytest.mark.parametrize("pages_left", [0, 1, 2])
def test_a_study_that_could_not_write_goes_on_to_the_same_bits(
    tmp_path: Path, disk: SmallDisk, run: Any, pages_left: int
) -> None:
    whole = run(tmp_path / "whole")

    def fill_after_the_third(event: RoundEvent) -> None:
        if event.round_index == 2:
            disk.fill(pages_left)

    with pytest.raises(OSError) as raised:  # noqa: PT011 (the number says which)
        run(disk.path / "study", fill_after_the_third)
    assert raised.value.errno == errno.ENOSPC
    disk.free()
    resumed = run(disk.path / "study", resume=True)
    assert {n: a.tobytes() for n, a in resumed.items()} == {
        n: a.tobytes() for n, a in whole.items()
    }
    log = (disk.path / "study" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round_index"] for line in log] == list(range(6))
    left = [path.name for path in (disk.path / "study" / "checkpoints").iterdir()]
    assert not [name for name in left if name.startswith(".")]


def test_the_keeper_submits_nothing_while_nothing_can_be_written(disk: SmallDisk) -> None:
    made = create(disk.path / "c", CoordinatorSettings(address="a.example:9443"), NOW)
    require_disk(made)  # little room is no reason to wait
    disk.fill()
    with pytest.raises(FederationError, match="the disk is full; studies wait"):
        require_disk(made)
    assert troubles(made, NOW)["disk"].startswith("disk: the disk is full. Make room")
    disk.free()
    disk.mount("ro")
    with pytest.raises(FederationError, match="read-only; studies wait"):
        require_disk(made)


def test_a_renewal_on_a_full_disk_leaves_the_old_certificate_and_its_key(disk: SmallDisk) -> None:
    made = create(disk.path / "c", CoordinatorSettings(address="a.example:9443"), NOW)
    before = made.key.read_bytes(), made.certificate.read_bytes()
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        renew_certificate(made, NOW)
    assert (made.key.read_bytes(), made.certificate.read_bytes()) == before
    disk.free()
    renew_certificate(made, NOW)
    after = made.key.read_bytes(), made.certificate.read_bytes()
    assert after[0] != before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("pages_left", range(0, 20, 3))
def test_a_coordinator_that_a_full_disk_did_not_take_can_be_made_there_once_there_is_room(
    disk: SmallDisk, pages_left: int
) -> None:
    settings = CoordinatorSettings(address="a.example:9443")
    disk.fill(pages_left)
    try:
        create(disk.path / "c", settings, NOW)
    except OSError:
        disk.free()
        create(disk.path / "c", settings, NOW)
    assert open_coordinator(disk.path / "c").settings == settings
