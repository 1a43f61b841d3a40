"""The sites' losses, read from the sites' own logs while they grow."""

import json
from pathlib import Path

import pytest

from metaward_sim.site_losses import SiteLosses


def append(path: Path, round_index: int, loss: float | None, *, end: str = "\n") -> None:
    with path.open("a") as log:
        log.write(json.dumps({"round_index": round_index, "loss": loss}) + end)


def test_the_mean_is_over_the_sites_that_logged_this_round(tmp_path: Path) -> None:
    append(tmp_path / "north.jsonl", 0, 1.0)
    append(tmp_path / "north.jsonl", 1, 0.5)
    append(tmp_path / "west.jsonl", 0, 3.0)
    losses = SiteLosses(tmp_path)
    assert losses.mean(0) == 2.0
    assert losses.mean(1) == 0.5
    assert losses.mean(2) is None


def test_lines_written_later_are_seen_and_others_are_not_read_again(tmp_path: Path) -> None:
    losses = SiteLosses(tmp_path)
    assert losses.mean(0) is None
    append(tmp_path / "north.jsonl", 0, 1.0)
    assert losses.mean(0) == 1.0
    append(tmp_path / "west.jsonl", 0, 2.0)
    assert losses.mean(0) == 1.5
    (tmp_path / "north.jsonl").unlink()
    assert losses.mean(0) == 1.5


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    append(tmp_path / "north.jsonl", 0, 1.0)
    with (tmp_path / "north.jsonl").open("a") as log:
        log.write('{"round_index": 1, ')
    losses = SiteLosses(tmp_path)
    assert losses.mean(1) is None
    with (tmp_path / "north.jsonl").open("a") as log:
        log.write('"loss": 4.0}\n')
    assert losses.mean(1) == 4.0


@pytest.mark.parametrize("line", ['{"round_index": 0, "loss": null}', '{"round_index": 0}'])
def test_a_site_that_sent_nothing_has_no_loss(tmp_path: Path, line: str) -> None:
    (tmp_path / "north.jsonl").write_text(line + "\n")
    append(tmp_path / "west.jsonl", 0, 2.0)
    assert SiteLosses(tmp_path).mean(0) == 2.0


def test_a_round_done_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    append(tmp_path / "north.jsonl", 0, 1.0)
    append(tmp_path / "north.jsonl", 0, 5.0)
    append(tmp_path / "west.jsonl", 0, 3.0)
    assert SiteLosses(tmp_path).mean(0) == 4.0
