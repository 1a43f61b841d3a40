"""Whoever changes the ledger, its witness or its answers is noticed, and nothing goes out."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ledger_place import BUDGET, OTHER, TERMS, A, B, Place, new_place
from ledger_refusals import CHANGED, lines, refused, refused_to_open, write_lines

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import RoundId, read_ledger
from metaward_client.privacy.ledger.snapshot import verify_ledger

ROUNDS = [RoundId(A, 0), RoundId(A, 1)]
NEXT = RoundId(A, 2)


@pytest.fixture
def used(place: Place) -> Place:
    """A small ledger: seven entries."""
    place.play(ROUNDS)
    return place


def test_a_ledger_cut_at_any_byte_is_refused(used: Place) -> None:
    whole = used.file.read_bytes()
    for length in range(len(whole)):
        used.file.write_bytes(whole[:length])
        with pytest.raises(PrivacyError, match="shortened or copied back"):
            read_ledger(used.ledger, used.witness, clock=used.clock)
        if length % 10 == 0:
            refused_to_open(used, match="shortened or copied back")
    used.file.write_bytes(whole)
    used.play(ROUNDS)


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_any_changed_bit_of_the_ledger_is_refused(place: Place, bits: int) -> None:
    """In every byte one bit, another one each time; or all of them."""
    place.play(ROUNDS[:1])
    whole = place.file.read_bytes()
    for byte in range(len(whole)):
        for bit in range(byte, byte + bits):
            changed = bytearray(whole)
            changed[byte] ^= 1 << bit % 8
            place.file.write_bytes(changed)
            with pytest.raises(PrivacyError, match=CHANGED):
                read_ledger(place.ledger, place.witness, clock=place.clock)
        if byte % 10 == 0:
            refused_to_open(place)


@pytest.mark.parametrize("name", ["head", "key"])
def test_any_changed_byte_of_the_witness_is_refused(used: Place, name: str) -> None:
    path = used.witness / name
    whole = path.read_bytes()
    for byte in range(len(whole)):
        changed = bytearray(whole)
        changed[byte] ^= 1 << byte % 8
        path.write_bytes(changed)
        refused(used, match="altered, or was not written with this site's key")


def test_a_head_cut_at_any_byte_is_refused(used: Place) -> None:
    path = used.witness / "head"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(used, match="the head was altered")


def test_a_key_of_another_length_is_refused_and_kept(used: Place) -> None:
    path = used.witness / "key"
    whole = path.read_bytes()
    used.file.rename(used.ledger.parent / "lost")
    for length in (0, 1, 31):
        path.write_bytes(whole[:length])
        with pytest.raises(PrivacyError, match="not written with this site's key"):
            used.create()
        assert path.read_bytes() == whole[:length]
    (used.ledger.parent / "lost").rename(used.file)
    for length in (0, 1, 31):
        path.write_bytes(whole[:length])
        refused(used, match=f"a key of {length} bytes")


@pytest.mark.parametrize("what", ["reply", "memory"])
def test_any_changed_bit_of_a_stored_answer_is_refused(used: Place, what: str) -> None:
    path = used.ledger / "replies" / f"{A}.1.{what}"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(PrivacyError, match=f"stored {what} was altered"):
            verify_ledger(used.ledger, used.witness, clock=used.clock)
        with used.open() as ledger:
            with pytest.raises(PrivacyError, match=f"stored {what} was altered"):
                ledger.reserve(ROUNDS[1] if what == "reply" else NEXT, TERMS, BUDGET)
            assert len(ledger.state.releases) == 2


@pytest.mark.parametrize("what", ["reply", "memory"])
def test_a_missing_stored_answer_is_refused_and_not_computed_again(used: Place, what: str) -> None:
    (used.ledger / "replies" / f"{A}.1.{what}").unlink()
    with pytest.raises(PrivacyError, match="it is missing"):
        verify_ledger(used.ledger, used.witness, clock=used.clock)
    with used.open() as ledger:
        with pytest.raises(PrivacyError, match="it is missing"):
            ledger.reserve(ROUNDS[1] if what == "reply" else NEXT, TERMS, BUDGET)
        assert len(ledger.state.releases) == 2


def test_the_answer_of_another_round_is_not_taken_for_this_one(used: Place) -> None:
    replies = used.ledger / "replies"
    shutil.copyfile(replies / f"{A}.0.reply", replies / f"{A}.1.reply")
    with used.open() as ledger, pytest.raises(PrivacyError, match="stored reply was altered"):
        ledger.reserve(ROUNDS[1], TERMS, BUDGET)


def test_entries_in_another_order_are_refused(used: Place) -> None:
    whole = lines(used)
    for first in range(len(whole) - 1):
        swapped = list(whole)
        swapped[first : first + 2] = reversed(swapped[first : first + 2])
        write_lines(used, swapped)
        refused(used, match="does not follow the entry before it")


def test_an_entry_written_twice_is_refused(used: Place) -> None:
    whole = lines(used)
    for index in range(len(whole) - 1):
        write_lines(used, [*whole[: index + 1], *whole[index:]])
        refused(used, match="does not follow the entry before it")
    write_lines(used, [*whole, whole[-1]])
    refused(used, match="does not follow the entry before it")


def test_an_entry_left_out_is_refused(used: Place) -> None:
    whole = lines(used)
    for index in range(len(whole)):
        write_lines(used, [*whole[:index], *whole[index + 1 :]])
        refused(used, match="shortened or copied back")
        write_lines(used, [*whole[:index], *whole[index + 1 :], whole[-1]])
        if index < len(whole) - 1:
            refused(used, match="does not follow the entry before it")


def test_an_empty_line_is_refused(used: Place) -> None:
    whole = lines(used)
    for index in range(len(whole) + 1):
        write_lines(used, [*whole[:index], b"\n", *whole[index:]])
        refused(used, match="was altered")


def test_an_entry_of_another_ledger_is_refused(used: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = new_place(tmp_path / "other")
    other.play(ROUNDS)
    whole, foreign = lines(used), lines(other)
    for index in range(len(whole)):
        write_lines(used, [*whole[:index], foreign[index], *whole[index + 1 :]])
        refused(used, match="was not written with this site's key")


def test_an_entry_of_another_ledger_with_the_same_key_is_refused(used: Place) -> None:
    other = used.copy("other")
    other.file.unlink()
    (other.witness / "head").unlink()
    other.create()
    other.play([replace(round_, study=B) for round_ in ROUNDS], OTHER)
    whole, foreign = lines(used), lines(other)
    for index in range(1, len(whole)):
        write_lines(used, [*whole[:index], foreign[index], *whole[index + 1 :]])
        refused(used, match="does not follow the entry before it")
    write_lines(used, foreign)
    refused(used, match="not the one that its witness has counted")


def test_the_head_is_no_entry_and_an_entry_is_no_head(used: Place) -> None:
    head = (used.witness / "head").read_bytes()
    whole = lines(used)
    (used.witness / "head").write_bytes(whole[-1].rstrip())
    refused(used, match="the head was altered")
    (used.witness / "head").write_bytes(head)
    write_lines(used, [*whole, head + b"\n"])
    refused(used, match="entry 7 was altered")


def test_an_older_copy_of_the_ledger_is_refused(used: Place) -> None:
    older = used.copy("older")
    used.play([NEXT])
    shutil.rmtree(used.ledger)
    shutil.copytree(older.ledger, used.ledger)
    refused(used, match="7 entries; expected 9.*shortened or copied back")


def test_an_older_copy_of_the_ledgers_file_alone_is_refused(used: Place) -> None:
    older = used.file.read_bytes()
    with used.open() as ledger:
        ledger.reserve(NEXT, TERMS, BUDGET)
    used.file.write_bytes(older)
    refused(used, match="copied back")


def test_an_older_copy_of_both_is_not_noticed(used: Place) -> None:
    """Nothing on one machine can: this is what the documentation must say."""
    older = used.copy("older")
    used.play([NEXT])
    for now, then in ((used.ledger, older.ledger), (used.witness, older.witness)):
        shutil.rmtree(now)
        shutil.copytree(then, now)
    with used.open() as ledger:
        assert len(ledger.state.releases) == 2


@pytest.mark.parametrize(
    "missing",
    ["ledger", "ledger/ledger.jsonl", "ledger/replies", "witness", "witness/head", "witness/key"],
)
def test_a_missing_part_is_refused_and_never_made_anew(used: Place, missing: str) -> None:
    path = used.ledger.parent / missing
    path.rename(path.with_name("elsewhere"))
    refused_to_open(used, match="it is missing")
    assert not path.exists()


def test_another_key_is_refused(used: Place) -> None:
    (used.witness / "key").write_bytes(os.urandom(32))
    refused(used, match="not written with this site's key")


def test_a_key_and_a_head_made_for_the_occasion_are_refused(used: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = new_place(tmp_path / "other")
    shutil.rmtree(used.witness)
    shutil.copytree(other.witness, used.witness)
    refused(used, match="not written with this site's key")


def change_while_open(used: Place, change: Callable[[Place], None]) -> None:
    with used.open() as ledger:
        change(used)
        with pytest.raises(PrivacyError, match="changed or removed while it was in use"):
            ledger.reserve(NEXT, TERMS, BUDGET)


def test_a_ledger_that_grows_while_it_is_open_is_refused(used: Place) -> None:
    change_while_open(used, lambda place: write_lines(place, [*lines(place), b"x"]))


def test_a_ledger_that_is_removed_while_it_is_open_is_refused(used: Place) -> None:
    change_while_open(used, lambda place: place.file.unlink())


def test_a_ledger_that_is_replaced_while_it_is_open_is_refused(used: Place) -> None:
    def swap(place: Place) -> None:
        other = place.file.with_name("other")
        other.write_bytes(place.file.read_bytes())
        other.replace(place.file)

    change_while_open(used, swap)


def test_an_entry_that_a_newer_version_wrote_is_refused(
    used: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaward_client.privacy.ledger.chain.FORMAT", 2)
    refused(used, match="does not know.*Use the version of metaward that wrote the ledger")


def test_a_payload_that_a_newer_version_wrote_is_refused(
    used: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(*arguments: object) -> dict[str, object]:
        return {"study": B, "terms": {"mechanism": "dp-sgd", "flux": 1}, "max_rounds": None}

    with monkeypatch.context() as patch:
        patch.setattr("metaward_client.privacy.ledger.ledger.study_payload", newer)
        with used.open() as ledger, pytest.raises(PrivacyError, match="does not know"):
            ledger.reserve(RoundId(B, 0), OTHER, BUDGET)
    refused(used, match=r"an entry \(8, study: TypeError\) that this version")
