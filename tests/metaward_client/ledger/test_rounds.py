"""A round is on the disk before it is answered, commits once, and is answered again the same."""

import json
from dataclasses import replace

import pytest
from ledger_place import BUDGET, OTHER, TERMS, A, B, C, Place, memory_of, reserved

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import Replay, RoundId, read_ledger
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.limits import charge_to_json
from metaward_client.privacy.terms import Budget, GaussianStep

STEP = GaussianStep(1.0, 0.5)
FIRST = RoundId(A, 0)


def test_a_reservation_is_on_the_disk_before_reserve_returns(place: Place) -> None:
    with place.open() as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)
        seen_by_another = read_ledger(place.ledger, place.witness, clock=place.clock)
    assert seen_by_another.spent == {STEP: 5}


def test_every_write_is_synced_before_the_next_file_is_touched(place: Place) -> None:
    """Line, then line synced; head, head synced, head named, name synced."""
    effects: list[str] = []

    class Noting(Disk):
        def write(self, file: int, content: bytes) -> int:
            effects.append("write")
            return super().write(file, content)

        def sync(self, descriptor: int) -> None:
            effects.append("sync")
            super().sync(descriptor)

        def rename(self, folder: int, old: str, new: str) -> None:
            effects.append("rename")
            super().rename(folder, old, new)

    place.play([FIRST])
    with place.open(Noting()) as ledger:
        effects.clear()
        ledger.reserve(RoundId(A, 1), TERMS, BUDGET)
        assert effects == ["write", "sync", "write", "sync", "rename", "sync"]


def test_a_write_that_the_system_takes_in_parts_is_written_whole(place: Place) -> None:
    class Sparing(Disk):
        def write(self, file: int, content: bytes) -> int:
            return super().write(file, content[:100])

    sent = place.play([FIRST], disk=Sparing())
    assert place.play([FIRST]) == sent
    with place.open() as ledger:
        assert ledger.state.spent == {STEP: 5}


def test_a_round_asked_again_gets_the_same_bytes_and_costs_nothing(place: Place) -> None:
    sent = place.play([FIRST])
    with place.open() as ledger:
        assert ledger.reserve(FIRST, TERMS, BUDGET) == Replay(sent[FIRST])
        assert ledger.state.spent == {STEP: 5}
        assert ledger.state.entries == 5


def test_a_replay_needs_neither_room_nor_the_terms_of_today(place: Place) -> None:
    sent = place.play([FIRST])
    with place.open() as ledger:
        again = ledger.reserve(FIRST, OTHER, Budget(0.1, 1e-9), max_rounds=0)
    assert again == Replay(sent[FIRST])


def test_a_round_that_was_charged_and_not_committed_goes_on_under_the_same_charge(
    place: Place,
) -> None:
    with place.open() as ledger:
        first = reserved(ledger.reserve(FIRST, TERMS, BUDGET))
    with place.open() as ledger:
        second = reserved(ledger.reserve(FIRST, TERMS, BUDGET))
        ledger.commit(second, b"reply")
        assert ledger.state.spent == {STEP: 5}
    assert (first.resumed, second.resumed) == (False, True)
    assert first.charge == second.charge == {STEP: 5}


@pytest.mark.parametrize(("index", "study"), [(-1, A), (True, A), (10**9 + 1, A), (0, "A" * 64)])
def test_a_round_that_is_none_is_refused(index: int, study: str) -> None:
    with pytest.raises(PrivacyError, match="Nothing was released"):
        RoundId(study, index)


@pytest.mark.parametrize("study", ["", "ab", "../" + "a" * 61, "a" * 63 + "\n", "a" * 65])
def test_a_study_is_a_digest_and_never_a_path(study: str) -> None:
    with pytest.raises(PrivacyError, match="a study's digest"):
        RoundId(study, 0)


def test_rounds_at_the_hospitals_bound_are_refused(place: Place) -> None:
    with place.open() as ledger:
        ledger.reserve(RoundId(A, 1), TERMS, BUDGET, max_rounds=2)
        for bound in (2, 3, None):  # raised or left out later, the first holds
            with pytest.raises(PrivacyError, match="a round below 2"):
                ledger.reserve(RoundId(A, 2), TERMS, BUDGET, max_rounds=bound)
        with pytest.raises(PrivacyError, match="a round below 0"):  # lowered, the lower holds
            ledger.reserve(RoundId(A, 0), TERMS, BUDGET, max_rounds=0)


def test_a_reservation_commits_once(place: Place) -> None:
    with place.open() as ledger:
        reservation = reserved(ledger.reserve(FIRST, TERMS, BUDGET))
        ledger.commit(reservation, b"one")
        with pytest.raises(PrivacyError, match="is committed"):
            ledger.commit(reservation, b"two")
        assert ledger.reserve(FIRST, TERMS, BUDGET) == Replay(b"one")


def test_a_reservation_of_an_earlier_opening_does_not_commit(place: Place) -> None:
    with place.open() as ledger:
        reservation = reserved(ledger.reserve(FIRST, TERMS, BUDGET))
    with place.open() as ledger, pytest.raises(PrivacyError, match="Reserve the round again"):
        ledger.commit(reservation, b"one")


def test_only_the_newest_of_two_reservations_of_a_round_commits(place: Place) -> None:
    with place.open() as ledger:
        older = reserved(ledger.reserve(FIRST, TERMS, BUDGET))
        newer = reserved(ledger.reserve(FIRST, TERMS, BUDGET))
        with pytest.raises(PrivacyError, match="did not give"):
            ledger.commit(older, b"one")
        ledger.commit(newer, b"two")
        assert ledger.state.spent == {STEP: 5}


def test_memory_is_what_the_studys_last_committed_round_left(place: Place) -> None:
    with place.open() as ledger:
        assert reserved(ledger.reserve(FIRST, TERMS, BUDGET)).memory is None
    place.play([RoundId(A, 0), RoundId(A, 1)])
    place.play([RoundId(B, 0)], OTHER)
    with place.open() as ledger:
        assert reserved(ledger.reserve(RoundId(A, 2), TERMS, BUDGET)).memory == memory_of(
            RoundId(A, 1)
        )
    with place.open() as ledger:  # nothing was committed in between
        again = reserved(ledger.reserve(RoundId(A, 2), TERMS, BUDGET))
        assert again.memory == memory_of(RoundId(A, 1))
        ledger.commit(again, b"reply", None)
        assert reserved(ledger.reserve(RoundId(A, 3), TERMS, BUDGET)).memory is None


def test_the_last_committed_round_is_the_last_in_time_whatever_its_number(place: Place) -> None:
    place.play([RoundId(A, 1), RoundId(A, 0)])
    with place.open() as ledger:
        left = reserved(ledger.reserve(RoundId(A, 2), TERMS, BUDGET)).memory
    assert left == memory_of(RoundId(A, 0))


def test_memory_is_not_shown_where_a_reservation_is_printed(place: Place) -> None:
    place.play([FIRST])
    with place.open() as ledger:
        assert "memory of" not in repr(ledger.reserve(RoundId(A, 1), TERMS, BUDGET))


def test_answers_of_long_ago_are_removed_and_refused(place: Place) -> None:
    cheap = replace(TERMS, noise_multiplier=64.0)
    rounds = [RoundId(A, index) for index in range(18)]
    sent = place.play(rounds, cheap)
    place.play([RoundId(B, 0)], OTHER)
    kept = sorted(path.name for path in (place.ledger / "replies").iterdir())
    assert kept == sorted(
        [f"{A}.{index}.reply" for index in range(2, 18)]
        + [f"{A}.17.memory", f"{B}.0.reply", f"{B}.0.memory"]
    )
    with place.open() as ledger:
        assert ledger.reserve(rounds[2], cheap, BUDGET) == Replay(sent[rounds[2]])
        with pytest.raises(PrivacyError, match="answered long ago"):
            ledger.reserve(rounds[1], cheap, BUDGET)


@pytest.mark.parametrize("name", ["notes.txt", f"{C}.0.reply.copy", f"copy of {C}.0.reply"])
def test_a_file_of_another_kind_is_left_alone(place: Place, name: str) -> None:
    (place.ledger / "replies" / name).write_text("mine")
    place.play([FIRST])
    assert (place.ledger / "replies" / name).read_text() == "mine"


def test_an_entry_holds_what_was_released_and_nothing_of_the_patients(place: Place) -> None:
    place.play([FIRST])
    bodies = [json.loads(line)["body"] for line in place.file.read_text().splitlines()]
    assert [body["kind"] for body in bodies] == ["open", "limit", "study", "reserve", "commit"]
    assert bodies[0]["payload"].keys() == {"ledger", "unit", "target_epsilon", "target_delta"}
    assert bodies[2]["payload"].keys() == {"study", "terms", "max_rounds"}
    assert bodies[3]["payload"] == {
        "study": A,
        "round": 0,
        "mechanism": "dp-sgd",
        "max_grad_norm": 1.0,
        "relation": "add or remove one patient",
        "charge": charge_to_json({STEP: 5}),
    }
    assert bodies[4]["payload"].keys() == {"study", "round", "reply", "memory"}
    assert [body["index"] for body in bodies] == list(range(5))
