"""Several processes at one ledger: one works, the others wait, then refuse; readers do not wait."""

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_children import noted
from ledger_place import BUDGET, TERMS, A, Place

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import RoundId, own_folder, read_ledger, snapshot
from metaward_client.privacy.ledger import state as state_module
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.snapshot import verify_ledger

CHILDREN = Path(__file__).with_name("ledger_children.py")
FIRST = RoundId(A, 0)


def child(*arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, str(CHILDREN), *map(str, arguments)])


def test_processes_that_race_charge_every_round_once(place: Place) -> None:
    """Two answer the same eight rounds, of which six fit; both send the same bytes."""
    racers = [child("race", place.ledger.parent, 8) for _ in range(2)]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0]
    folder = place.ledger.parent.parent
    sent = [noted(folder / f"sent-{racer.pid}") for racer in racers]
    refusals = [noted(folder / f"refused-{racer.pid}") for racer in racers]
    assert sent[0] == sent[1]
    assert [round_.round_index for round_ in sent[0]] == list(range(6))
    assert [round_.round_index for round_ in refusals[0]] == [6, 7]
    assert all(b"more than is left" in text for each in refusals for text in each.values())
    state = verify_ledger(place.ledger, place.witness, clock=place.clock)
    assert [release.round.round_index for release in state.releases] == list(range(6))


def test_a_second_process_waits_and_then_refuses(place: Place) -> None:
    holder = child("hold", place.ledger.parent)
    try:
        holding = place.ledger.parent.parent / "holding"
        end = time.monotonic() + 60
        while not holding.exists() and time.monotonic() < end:
            time.sleep(0.02)
        began = time.monotonic()
        with (
            pytest.raises(PrivacyError, match=r"another process has used it for 0\.2 s"),
            place.open(wait_s=0.2),
        ):
            pass
        assert time.monotonic() - began >= 0.2
        state = read_ledger(place.ledger, place.witness, clock=place.clock)
        assert state.spent != {}  # a reader does not wait
    finally:
        holder.kill()
        holder.wait()
    with place.open() as ledger:  # the kernel gave the lock back; the charge stands
        assert [release.round for release in ledger.state.releases] == [FIRST]


def test_a_second_opening_in_the_same_process_refuses_too(place: Place) -> None:
    with (
        place.open() as ledger,
        pytest.raises(PrivacyError, match="one round at a time"),
        place.open(),
    ):
        pass
    with place.open() as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)


def test_a_ledger_that_is_replaced_while_a_process_waits_for_it_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter([False, True])

    def another_has_it_and_replaces_it(_: int) -> bool:
        shutil.copy(place.file, place.ledger / "other")
        (place.ledger / "other").replace(place.file)
        return next(tries)

    monkeypatch.setattr(own_folder, "_try_lock", another_has_it_and_replaces_it)
    with pytest.raises(PrivacyError, match="another file was put"), place.open(wait_s=5):
        pass


def test_a_reader_sees_whole_entries_only_while_rounds_run(place: Place) -> None:
    """It reads as fast as it can while another process writes; every state is a true one."""
    racer = child("race", place.ledger.parent, 6)
    seen = set()
    while racer.poll() is None:
        state = verify_ledger(place.ledger, place.witness, clock=place.clock)
        seen.add(state.entries)
        assert sum(state.spent.values()) == 5 * len(state.releases)
    assert racer.returncode == 0
    assert max(seen) <= 15
    assert verify_ledger(place.ledger, place.witness, clock=place.clock).entries == 15
    assert len(seen) > 1


def test_a_reader_accepts_a_file_that_is_replaced_just_after_it_was_looked_at(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no name any more then, as the old head of a round has not."""
    place.play([FIRST])
    head, look_at = place.witness / "head", os.fstat

    def replaced_afterwards(file: int) -> os.stat_result:
        status = look_at(file)
        fresh = place.witness / "head.fresh"
        fresh.touch(mode=0o600)
        fresh.write_bytes(head.read_bytes())
        fresh.replace(head)
        return status

    monkeypatch.setattr(os, "fstat", replaced_afterwards)
    assert verify_ledger(place.ledger, place.witness, clock=place.clock).entries == 5


def test_a_reader_accepts_a_ledger_in_the_midst_of_an_append(place: Place) -> None:
    """At any byte of the line, and where it stands and the head does not count it yet."""
    place.play([FIRST])
    head = (place.witness / "head").read_bytes()
    counted = len(place.file.read_bytes())
    with place.open() as ledger:
        ledger.reserve(RoundId(A, 1), TERMS, BUDGET)
    (place.witness / "head").write_bytes(head)
    whole = place.file.read_bytes()
    for length in range(counted, len(whole) + 1):
        place.file.write_bytes(whole[:length])
        state = read_ledger(place.ledger, place.witness, clock=place.clock)
        charged = 2 if length == len(whole) else 1
        assert (state.entries, len(state.releases)) == (4 + charged, charged)


def test_readers_never_refuse_a_ledger_that_another_process_writes_to(place: Place) -> None:
    """It appends, and ends in the midst of a line now and then, as fast as it can."""
    writer = child("write", place.ledger.parent, 150)
    seen = []
    while writer.poll() is None:
        for read in (read_ledger, verify_ledger):
            state = read(place.ledger, place.witness, clock=place.clock)
            seen.append(state.entries)
            assert sum(state.spent.values()) == 5 * len(state.releases)
    assert writer.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 1
    state = verify_ledger(place.ledger, place.witness, clock=place.clock)
    assert len(state.releases) == 150


class Meanwhile(Disk):
    """Another process does something before the n-th read (from 1) of this one."""

    def __init__(self, at: int, do: Callable[[], object]) -> None:
        self.left, self.do = at, do

    def read(self, file: int, size: int) -> bytes:
        self.left -= 1
        if self.left == 0:
            self.do()
        return super().read(file, size)


READS = 6
"""Of one look: key, head and ledger, and the end of each."""


@pytest.mark.parametrize("at", range(1, 2 * READS + 1))
@pytest.mark.parametrize("torn", [b"", b"half a line"])
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_reader_that_is_overtaken_by_rounds_looks_again(
    place: Place, at: int, torn: bytes, rounds: int
) -> None:
    place.play([FIRST])
    with place.file.open("ab") as file:
        file.write(torn)

    def overtake() -> None:
        with place.open():
            pass  # cuts off what is torn
        place.play([RoundId(A, 1 + index) for index in range(rounds)])

    disk = Meanwhile(at, overtake)
    state = read_ledger(place.ledger, place.witness, clock=place.clock, disk=disk)
    assert len(state.releases) in range(1, 2 + rounds)


def test_verifying_accepts_that_an_old_answer_is_removed_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "REPLIES_KEPT", 1)
    place.play([FIRST])
    verify_replies = snapshot._verify_replies
    later = iter([[RoundId(A, 1)], [RoundId(A, 2)], []])

    def meanwhile(*arguments: Any) -> None:
        place.play(next(later))
        verify_replies(*arguments)

    monkeypatch.setattr(snapshot, "_verify_replies", meanwhile)
    state = verify_ledger(place.ledger, place.witness, clock=place.clock)
    assert len(state.releases) == 3


def test_reading_writes_nothing(place: Place) -> None:
    place.play([FIRST])
    with place.file.open("ab") as file:
        file.write(b"torn")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in place.ledger.parent.rglob("*")}
    read_ledger(place.ledger, place.witness, clock=place.clock)
    verify_ledger(place.ledger, place.witness, clock=place.clock)
    assert before == {
        p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in place.ledger.parent.rglob("*")
    }


class Replacing(Disk):
    """Another process puts a new head in place just after this one has opened the old."""

    def __init__(self, place: Place, times: float) -> None:
        self.place, self.times = place, times

    def open(self, path: str | Path, flags: int, folder: int | None = None) -> int:
        file = super().open(path, flags, folder)
        if str(path) == "head" and self.times > 0:
            self.times -= 1
            head = self.place.witness / "head"
            (self.place.witness / "other").touch(mode=0o600)
            (self.place.witness / "other").write_bytes(head.read_bytes())
            (self.place.witness / "other").replace(head)
        return file


@pytest.mark.parametrize("times", [1, 3])
def test_a_reader_whose_head_is_replaced_as_it_opens_it_takes_the_new_one(
    place: Place, times: int
) -> None:
    place.play([FIRST])
    disk = Replacing(place, times)
    state = verify_ledger(place.ledger, place.witness, clock=place.clock, disk=disk)
    assert disk.times == 0
    assert state.entries == 5


def test_a_head_that_is_replaced_at_every_opening_is_refused(place: Place) -> None:
    place.play([FIRST])
    disk = Replacing(place, math.inf)
    with pytest.raises(PrivacyError, match="or with none"):
        read_ledger(place.ledger, place.witness, clock=place.clock, disk=disk)
