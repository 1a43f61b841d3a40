"""One scenario, to be played with a fault at each of its effects on the disk; then to its end.

Make a ledger, answer rounds of two studies, answer one again, remove an old answer. It is played
once to count its effects, then once per effect with the fault there; then again on a sound disk.
The promises after each fault are in ``resumed_as_promised``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_place import BUDGET, OTHER, STEPS, TERMS, A, B, Place, new_place

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import Replay, RoundId
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.snapshot import verify_ledger
from metaward_client.privacy.terms import GaussianStep

FIRST = [RoundId(A, 0), RoundId(A, 1)]
SECOND = [RoundId(B, 0)]
THIRD = [RoundId(A, 1), RoundId(A, 2)]
ANSWERS_KEPT = 2
"""Of a study, so that the scenario removes one."""
SPENT = {GaussianStep(1.0, 0.5): 3 * STEPS, GaussianStep(2.0, 0.5): STEPS}
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
