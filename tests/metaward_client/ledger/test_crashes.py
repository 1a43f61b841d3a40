"""Every effect on the disk is a point where the machine stops, loses power, or fails to write.

One scenario: make a ledger, answer rounds of two studies, answer one again, remove an old answer.
It is played once to count its effects, then once per effect with the fault there; then again on a
sound disk to its end. The promises after each fault are in ``resumed_as_promised``.
"""

import errno
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_children import noted
from ledger_faults import CountingDisk, FaultyDisk, PowerDisk, Stopped, StoppingDisk
from ledger_place import BUDGET, OTHER, STEPS, TERMS, A, B, Place, new_place

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import Replay, RoundId, read_ledger
from metaward_client.privacy.ledger import state as state_module
from metaward_client.privacy.ledger.durable import Disk
from metaward_client.privacy.ledger.snapshot import verify_ledger
from metaward_client.privacy.terms import GaussianStep

FIRST = [RoundId(A, 0), RoundId(A, 1)]
SECOND = [RoundId(B, 0)]
THIRD = [RoundId(A, 1), RoundId(A, 2)]
SPENT = {GaussianStep(1.0, 0.5): 3 * STEPS, GaussianStep(2.0, 0.5): STEPS}
TORN = (0, 1, 200)
"""Bytes of a write that the machine stops in; an entry has some 500."""
NEVER = 10**9
READS = {"open", "read"}
"""To stop before one of them is to stop after the effect before it."""

Told = Callable[[RoundId, bytes], None]


class Seen:
    """What the outside has seen: it may never see another answer of the same round."""

    def __init__(self) -> None:
        self.sent: dict[RoundId, bytes] = {}

    def told(self, round_: RoundId, reply: bytes) -> None:
        assert self.sent.setdefault(round_, reply) == reply


def scenario(place: Place, told: Told, disk: Disk | None = None) -> None:
    if not place.file.exists():
        place.create(disk)
    place.play(FIRST, TERMS, disk, told)
    place.play(SECOND, OTHER, disk, told)
    place.play(THIRD, TERMS, disk, told)


def resumed_as_promised(place: Place, seen: Seen) -> None:
    """Go on after a fault, on a sound disk.

    What was sent is charged and is answered with the same bytes; nothing that was spent is
    forgotten; and at the end each round was charged once, whatever happened on the way.
    """
    before = dict(seen.sent)
    with place.open() as ledger:
        spent_before = ledger.state.spent
        answered_long_ago = set()
        for release in ledger.state.releases:
            study = ledger.state.studies[release.round.study]
            if release.commit and release.round.round_index not in study.kept():
                answered_long_ago.add(release.round)
            elif release.commit:
                answer = ledger.reserve(release.round, study.terms, BUDGET)
                assert isinstance(answer, Replay)
                seen.told(release.round, answer.reply)
        assert before.keys() <= {r.round for r in ledger.state.releases if r.commit}
    place.play([r for r in FIRST if r not in answered_long_ago], TERMS, None, seen.told)
    place.play(SECOND, OTHER, None, seen.told)
    place.play(THIRD, TERMS, None, seen.told)
    state = verify_ledger(place.ledger, place.witness, clock=place.clock)
    assert state.spent == SPENT
    assert all(count <= SPENT[step] for step, count in spent_before.items())
    rounds = [release.round for release in state.releases]
    assert sorted(rounds) == sorted({*FIRST, *SECOND, *THIRD})


@pytest.fixture(autouse=True)
def _two_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the scenario removes one."""
    monkeypatch.setattr(state_module, "REPLIES_KEPT", 2)


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The effects of the scenario, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module, "REPLIES_KEPT", 2)
        disk = CountingDisk()
        scenario(new_place(tmp_path_factory.mktemp("count"), made=False), Seen().told, disk)
    return disk.effects


def points(effects: list[str], torn: int = 0) -> list[int]:
    """Return the numbers (from 1) of the effects to stop at; of writes only, to stop within."""
    return [
        at
        for at, effect in enumerate(effects, start=1)
        if effect == "write" or not (torn or effect in READS)
    ]


def fresh_places(folder: Path) -> Iterator[Place]:
    number = 0
    while True:
        (folder / str(number)).mkdir()
        yield new_place(folder / str(number), made=False)
        number += 1


def made_again_if_need_be(place: Place) -> None:
    if not place.file.exists():
        with pytest.raises(PrivacyError, match="it is missing"), place.open():
            pass
        place.create()


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
    ("names", "content"),
    [
        ("none", "none"),
        ("newest", "none"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(["all", "newest", "none"], ["all", "half", "none"])
            if case not in {("none", "none"), ("newest", "none")}
        ),
    ],
)
def test_a_machine_that_loses_power_before_any_effect_breaks_no_promise(
    tmp_path: Path, effects: list[str], names: str, content: str
) -> None:
    places = fresh_places(tmp_path)
    for at in points(effects):
        place, seen = next(places), Seen()
        disk = PowerDisk(place.ledger.parent, at)
        with pytest.raises(Stopped):
            scenario(place, seen.told, disk)
        disk.lose_power(names=names, content=content)
        made_again_if_need_be(place)
        resumed_as_promised(place, seen)


@pytest.mark.parametrize("answers", [False, True])
def test_power_lost_after_a_process_ended_and_another_went_on_breaks_no_promise(
    tmp_path: Path, effects: list[str], answers: bool
) -> None:
    """What the first left in the cache counts for the second, and may still be lost.

    The second opens the ledger; or makes it if need be, and answers a round.
    """
    places = fresh_places(tmp_path)
    for at in points(effects):
        place, seen = next(places), Seen()
        disk = PowerDisk(place.ledger.parent, at, torn=200)
        with pytest.raises(Stopped):
            scenario(place, seen.told, disk)
        disk.at = NEVER
        unanswered = [r for r in (*FIRST, *SECOND, *THIRD) if r not in seen.sent]
        if answers and unanswered:
            if not place.file.exists():
                place.create(disk)
            terms = OTHER if unanswered[0].study == B else TERMS
            place.play(unanswered[:1], terms, disk, seen.told)
        elif place.file.exists():
            with place.open(disk):
                pass
        disk.lose_power(names="none", content="none")
        made_again_if_need_be(place)
        resumed_as_promised(place, seen)


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_power_lost_while_another_process_goes_on_breaks_no_promise(
    tmp_path: Path, effects: list[str], thorough: bool
) -> None:
    """The first process ends at any effect, the second loses power at any.

    Quickly: at those of one charge; thoroughly: at every fifth of all.
    """
    places = fresh_places(tmp_path)
    renames = [at for at in points(effects) if effects[at - 1] == "rename"]
    one_charge = [at for at in points(effects) if renames[7] < at <= renames[8] + 1]
    for at in points(effects)[::5] if thorough else one_charge:
        for again in itertools.count(1):
            place, seen = next(places), Seen()
            disk = PowerDisk(place.ledger.parent, at, torn=200)
            with pytest.raises(Stopped):
                scenario(place, seen.told, disk)
            unanswered = [r for r in (*FIRST, *SECOND, *THIRD) if r not in seen.sent]
            if not place.file.exists() or not unanswered:
                break
            disk.at = len(disk.effects) + again
            try:
                terms = OTHER if unanswered[0].study == B else TERMS
                place.play(unanswered[:1], terms, disk, seen.told)
            except Stopped:
                if disk.effects[-1] in READS:
                    continue
                disk.lose_power(names="none", content="none")
                made_again_if_need_be(place)
                resumed_as_promised(place, seen)
            else:
                break


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
