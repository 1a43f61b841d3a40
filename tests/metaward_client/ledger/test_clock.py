import pytest
from ledger_place import BUDGET, NOON, TERMS, A, Place

from metaward.errors import ConfigError, PrivacyError
from metaward_client.privacy.ledger import RoundId, read_ledger
from metaward_client.privacy.ledger.by_a_person import accept_clock
from metaward_client.privacy.ledger.clock import as_text

ROUNDS = [RoundId(A, index) for index in range(5)]


def accept(place: Place, reason: str = "the battery was empty") -> None:
    accept_clock(place.ledger, place.witness, reason, clock=place.clock, wait_s=0)


def last_time(place: Place) -> str:
    return read_ledger(place.ledger, place.witness, clock=place.clock).last_time


def test_a_clock_that_went_back_is_refused(place: Place) -> None:
    place.play(ROUNDS[:1])
    place.clock.move(minutes=-5, seconds=-1)
    with pytest.raises(PrivacyError, match="metaward site ledger accept-clock"), place.open():
        pass
    with pytest.raises(PrivacyError, match="not before the last entry"):
        read_ledger(place.ledger, place.witness, clock=place.clock)


def test_a_clock_that_goes_back_while_a_round_runs_is_refused(place: Place) -> None:
    with place.open() as ledger:
        reservation = ledger.reserve(ROUNDS[0], TERMS, BUDGET)
        place.clock.move(hours=-1)
        with pytest.raises(PrivacyError, match="the clock says"):
            ledger.commit(reservation, b"reply")  # type: ignore[arg-type]


def test_five_minutes_are_a_correction_and_time_does_not_go_back_in_the_ledger(
    place: Place,
) -> None:
    place.play(ROUNDS[:1])
    place.clock.move(minutes=-5)
    place.play(ROUNDS[1:2])
    assert last_time(place) == as_text(NOON)
    place.clock.move(minutes=-5)  # ten minutes in two steps
    with pytest.raises(PrivacyError, match="the clock says"), place.open():
        pass


def test_a_clock_that_jumps_ahead_and_back_stays_refused_until_a_person_accepts(
    place: Place,
) -> None:
    place.play(ROUNDS[:1])
    place.clock.move(days=3650)
    place.play(ROUNDS[1:2])
    place.clock.move(days=-3650)
    with pytest.raises(PrivacyError, match="2030-06-29"), place.open():
        pass
    accept(place)
    assert last_time(place) == as_text(NOON)
    place.play(ROUNDS[2:3])
    assert last_time(place) == as_text(NOON)
    assert b'"reason":"the battery was empty"' in place.file.read_bytes()


def test_accepting_a_clock_forgets_nothing(place: Place) -> None:
    place.play(ROUNDS[:2])
    place.clock.move(days=-1)
    accept(place)
    with place.open() as ledger:
        assert [release.round for release in ledger.state.releases] == ROUNDS[:2]


def test_a_clock_that_is_right_is_not_accepted(place: Place) -> None:
    place.play(ROUNDS[:1])
    before = place.file.read_bytes()
    for minutes in (0, 60, -64):
        place.clock.move(minutes=minutes)
        with pytest.raises(ConfigError, match="nothing to accept"):
            accept(place)
    assert place.file.read_bytes() == before


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "\x1b[2J", "x" * 501])
def test_a_reason_is_one_line_of_text(place: Place, reason: str) -> None:
    place.clock.move(days=-1)
    before = place.file.read_bytes()
    with pytest.raises(ConfigError, match="without patient data"):
        accept(place, reason)
    assert place.file.read_bytes() == before
