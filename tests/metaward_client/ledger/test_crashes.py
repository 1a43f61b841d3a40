"""Every effect on the disk is a point where a process ends, or a disk fails to write."""

import errno
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_children import noted
from ledger_faults import FaultyDisk, Stopped, StoppingDisk
from ledger_place import BUDGET, TERMS, A, Place
from ledger_scenario import (
    FIRST,
    NEVER,
    Seen,
    fresh_places,
    made_again_if_need_be,
    points,
    resumed_as_promised,
    scenario,
)

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import RoundId, read_ledger

pytestmark = pytest.mark.usefixtures("two_answers_are_kept")

TORN = (0, 1, 200)
"""Bytes of a write that the machine stops in; an entry has some 500."""


def test_the_scenario_has_every_kind_of_effect(effects: list[str]) -> None:
    kinds = {"open", "create", "read", "write", "sync", "truncate", "rename", "unlink", "mkdir"}
    assert set(effects) == kinds
    assert len(effects) > 150


@pytest.mark.parametrize("torn", TORN)
def test_a_process_that_ends_before_any_effect_breaks_no_promise(
    tmp_path: Path, effects: list[str], torn: int
) -> None:
    places = fresh_places(tmp_path)
    for at in points(effects, torn):
        place, seen = next(places), Seen()
        with pytest.raises(Stopped):
            scenario(place, seen.told, StoppingDisk(at, torn))
        made_again_if_need_be(place)
        resumed_as_promised(place, seen)


@pytest.mark.parametrize("torn", TORN)
def test_a_process_that_is_killed_before_any_effect_breaks_no_promise(
    tmp_path: Path, effects: list[str], torn: int
) -> None:
    """SIGKILL, to a process of its own, at every effect."""
    script = Path(__file__).with_name("ledger_children.py")
    numbers = [str(at) for at in points(effects, torn)]
    command = [sys.executable, str(script), "kill", str(tmp_path), str(torn), *numbers]
    subprocess.run(command, check=True, timeout=120)
    for number in numbers:
        home = tmp_path / number
        place, seen = Place(home / "both/ledger", home / "both/witness"), Seen()
        seen.sent = noted(home / "sent")
        made_again_if_need_be(place)
        resumed_as_promised(place, seen)


@pytest.mark.parametrize(
    ("error", "for_ever"),
    [
        (errno.ENOSPC, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product([errno.ENOSPC, errno.EIO, errno.EROFS], [False, True])
            if case != (errno.ENOSPC, True)
        ),
    ],
)
def test_a_disk_that_fails_at_any_effect_refuses_and_breaks_no_promise(
    tmp_path: Path, effects: list[str], error: int, for_ever: bool
) -> None:
    places = fresh_places(tmp_path)
    for at in range(1, len(effects) + 1):
        place, seen = next(places), Seen()
        disk = FaultyDisk(at, error, for_ever=for_ever)
        with pytest.raises(PrivacyError, match="Nothing was released") as refusal:
            scenario(place, seen.told, disk)
        assert refusal.value.where
        made_again_if_need_be(place)
        resumed_as_promised(place, seen)


@pytest.mark.parametrize("effect", range(1, 8))  # of an entry: the line's, then the head's
def test_after_a_failed_write_an_open_ledger_writes_no_more(place: Place, effect: int) -> None:
    disk = FaultyDisk(at=NEVER, error=errno.ENOSPC)
    with place.open(disk) as ledger:
        disk.at = len(disk.effects) + effect
        with pytest.raises(PrivacyError, match="the disk is full"):
            ledger.reserve(FIRST[0], TERMS, BUDGET)
        with pytest.raises(PrivacyError, match="the last write failed"):
            ledger.reserve(FIRST[0], TERMS, BUDGET)
    resumed_as_promised(place, Seen())


def test_a_line_that_was_cut_off_is_noted(place: Place) -> None:
    place.play(FIRST)
    with place.file.open("ab") as file:
        file.write(b'{"body":{"for')
    assert read_ledger(place.ledger, place.witness, clock=place.clock).entries == 7
    with place.open() as ledger:
        assert ledger.state.entries == 8
    assert b'"kind":"cut","payload":{"bytes":13}' in place.file.read_bytes()
    assert place.file.read_bytes().endswith(b"\n")


def test_a_line_cut_off_anywhere_is_cut_off_or_whole(place: Place) -> None:
    """Prefixes of the line of a charge, which the head does not count yet."""
    place.play(FIRST)
    copy = place.copy("next")
    with copy.open() as ledger:
        ledger.reserve(RoundId(A, 2), TERMS, BUDGET)
    before = place.file.read_bytes()
    line = copy.file.read_bytes()[len(before) :]
    head = (place.witness / "head").read_bytes()
    for length in [*range(1, len(line), 9), len(line) - 1, len(line)]:
        place.file.write_bytes(before + line[:length])
        (place.witness / "head").write_bytes(head)
        with place.open() as ledger:
            charged = len(ledger.state.releases)
            assert ledger.state.entries == 8
        assert charged == (3 if length == len(line) else 2)
