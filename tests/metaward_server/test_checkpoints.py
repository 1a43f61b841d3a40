"""Checkpoints: whole or nothing, verified, of this study only."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from metaward.arrays import Arrays
from metaward.errors import ConfigError, FederationError
from metaward_server.checkpoints import CheckpointStore, Progress


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", "d" * 64)


def progress_at(next_round: int, theta: Arrays) -> Progress:
    moved = {name: leaf + np.float32(next_round) for name, leaf in theta.items()}
    return Progress(next_round, moved, {"first": theta, "second": moved})


def assert_same(left: Progress, right: Progress) -> None:
    assert left.next_round == right.next_round
    assert left.outer_state.keys() == right.outer_state.keys()
    for slot in ({"theta": left.theta} | left.outer_state).items():
        other = ({"theta": right.theta} | right.outer_state)[slot[0]]
        assert list(slot[1]) == list(other)
        assert all(slot[1][n].tobytes() == other[n].tobytes() for n in other)


def test_a_checkpoint_comes_back_to_the_bit(store: CheckpointStore, theta: Arrays) -> None:
    store.save(progress_at(3, theta))
    assert_same(store.load_newest(), progress_at(3, theta))


def test_an_optimiser_without_state_is_kept_too(store: CheckpointStore, theta: Arrays) -> None:
    store.save(Progress(1, theta, {}))
    assert store.load_newest().outer_state == {}


def test_the_last_three_are_kept(store: CheckpointStore, theta: Arrays) -> None:
    for index in range(6):
        store.save(progress_at(index, theta))
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "round-000003",
        "round-000004",
        "round-000005",
    ]
    assert store.load_newest().next_round == 5


def test_the_millionth_round_is_newer_than_the_one_before(
    store: CheckpointStore, theta: Arrays
) -> None:
    for next_round in (999_998, 999_999, 1_000_000, 1_000_001):
        store.save(Progress(next_round, theta, {}))
        assert store.load_newest().next_round == next_round


@pytest.mark.parametrize("name", ["theta.safetensors", "outer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_torn_checkpoint_falls_back_to_the_one_before(
    store: CheckpointStore, theta: Arrays, name: str, harm: str
) -> None:
    for index in (1, 2):
        store.save(progress_at(index, theta))
    file = store.folder / "round-000002" / name
    data = bytearray(file.read_bytes())
    match harm:
        case "cut":
            file.write_bytes(data[:-5])
        case "flip":
            data[0] ^= 1
            file.write_bytes(data)
        case "remove":
            file.unlink()
    assert_same(store.load_newest(), progress_at(1, theta))


def test_a_torn_checkpoint_is_replaced_when_its_round_is_played_again(
    store: CheckpointStore, theta: Arrays
) -> None:
    store.save(progress_at(1, theta))
    (store.folder / "round-000002").mkdir()
    (store.folder / ".round-000002.tmp").mkdir()
    store.save(progress_at(2, theta))
    assert_same(store.load_newest(), progress_at(2, theta))
    assert len(list(store.folder.iterdir())) == 2


def test_a_checkpoint_gets_its_name_when_all_of_it_is_on_the_disk(
    store: CheckpointStore, theta: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses power may keep the name, and not what stands in the files."""
    done: list[os.stat_result | str] = []
    rename = Path.rename

    def noted_rename(path: Path, target: Path) -> Path:
        done.append("named")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor)))
    monkeypatch.setattr(Path, "rename", noted_rename)
    store.save(progress_at(1, theta))
    places = {path.stat().st_ino: path for path in (store.folder, *store.folder.rglob("*"))}
    assert [one if isinstance(one, str) else places[one.st_ino].name for one in done] == [
        "theta.safetensors",
        "outer.safetensors",
        "checkpoint.json",
        "round-000001",
        "named",
        "checkpoints",
    ]
    for seen in done:
        if not isinstance(seen, str) and stat.S_ISREG(seen.st_mode):
            assert seen.st_size == places[seen.st_ino].stat().st_size


def test_when_none_is_whole_the_study_cannot_go_on(store: CheckpointStore, theta: Arrays) -> None:
    store.save(progress_at(1, theta))
    (store.folder / "round-000001" / "theta.safetensors").unlink()
    with pytest.raises(FederationError, match="none of them whole"):
        store.load_newest()


def test_a_checkpoint_of_another_study_is_refused(store: CheckpointStore, theta: Arrays) -> None:
    store.save(progress_at(1, theta))
    with pytest.raises(ConfigError, match="other settings"):
        CheckpointStore(store.folder, "e" * 64).load_newest()


def test_nothing_to_resume_is_said(store: CheckpointStore) -> None:
    assert store.is_empty()
    with pytest.raises(ConfigError, match="without --resume"):
        store.load_newest()
