"""Every effect on the disk is a point where power is lost, and with it what was not synced."""

import itertools
from pathlib import Path

import pytest
from ledger_faults import PowerDisk, Stopped
from ledger_place import OTHER, TERMS, B
from ledger_scenario import (
    FIRST,
    NEVER,
    READS,
    SECOND,
    THIRD,
    Seen,
    fresh_places,
    made_again_if_need_be,
    points,
    resumed_as_promised,
    scenario,
)

pytestmark = pytest.mark.usefixtures("two_answers_are_kept")


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
