"""What may stand behind the entries that the witness counts, and what may not, for every reader."""

import pytest
from ledger_place import BUDGET, TERMS, A, Place
from ledger_refusals import lines, refused

from metaward_client.privacy.ledger import RoundId, read_ledger
from metaward_client.privacy.ledger.chain import Entry, Head
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.snapshot import read_entries, verify_ledger
from metaward_client.privacy.ledger.witness import open_witness

NEXT = RoundId(A, 2)


@pytest.fixture
def used(place: Place) -> Place:
    """A small ledger: seven entries."""
    place.play([RoundId(A, 0), RoundId(A, 1)])
    return place


def test_an_older_copy_of_the_witness_is_refused(used: Place) -> None:
    older = (used.witness / "head").read_bytes()
    used.play([NEXT])
    (used.witness / "head").write_bytes(older)
    refused(used, match="9 entries; expected 7.*the witness was copied back")


def test_a_witness_copied_back_by_two_entries_or_more_is_refused(used: Place) -> None:
    entries = read_entries(used.ledger, used.witness)
    for behind in range(2, len(entries)):
        copy_witness_back(used, entries, behind)
        refused(used, match="the witness was copied back")


def test_a_witness_that_is_one_entry_behind_forgets_nothing(used: Place) -> None:
    """So a crash may leave it; the entry itself says what was spent, to every reader."""
    with used.open() as ledger:
        ledger.reserve(NEXT, TERMS, BUDGET)
    entries = read_entries(used.ledger, used.witness)
    assert len(entries) == 8
    copy_witness_back(used, entries, 1)
    for read in (read_ledger, verify_ledger):
        state = read(used.ledger, used.witness, clock=used.clock)
        assert (state.entries, len(state.releases)) == (8, 3)
    with used.open() as ledger:
        assert len(ledger.state.releases) == 3
    assert read_ledger(used.ledger, used.witness, clock=used.clock).entries == 8


def copy_witness_back(place: Place, entries: tuple[Entry, ...], behind: int) -> None:
    count = len(entries) - behind
    with open_witness(place.witness, Disk()) as witness:
        witness.advance(Head(count, entries[count - 1].digest))


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("added", [b"x\n", b"{}\n", b"\0\0\n", b"x\nhalf"])
def test_a_line_that_is_no_entry_is_refused_at_the_end_too(
    used: Place, added: bytes, behind: int
) -> None:
    copy_witness_back(used, read_entries(used.ledger, used.witness), behind)
    with used.file.open("ab") as file:
        file.write(added)
    refused(used, match="was altered|were added")


def test_half_a_line_after_the_counted_entries_is_what_a_crash_leaves(used: Place) -> None:
    with used.file.open("ab") as file:
        file.write(lines(used)[-1][:-1])
    for read in (read_ledger, verify_ledger):
        assert read(used.ledger, used.witness, clock=used.clock).entries == 7


def test_half_a_line_after_an_entry_that_is_not_counted_is_refused(used: Place) -> None:
    """No line is begun before the head counts the one before it."""
    copy_witness_back(used, read_entries(used.ledger, used.witness), 1)
    with used.file.open("ab") as file:
        file.write(b"half")
    refused(used, match="the witness was copied back")
