"""What the tests of a ledger that was changed share: nobody accepts it, and nothing is touched."""

from pathlib import Path

import pytest
from ledger_place import Place

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import read_ledger
from metaward_client.privacy.ledger.snapshot import verify_ledger

CHANGED = "altered|shortened|expected|does not follow|added"


def refused(place: Place, *, match: str = CHANGED) -> PrivacyError:
    """Assert that neither a round nor a reader accepts the ledger; return the refusal."""
    for read in (read_ledger, verify_ledger):
        with pytest.raises(PrivacyError, match=match) as reading:
            read(place.ledger, place.witness, clock=place.clock)
        assert reading.value.exit_code == 4
    return refused_to_open(place, match=match)


def refused_to_open(place: Place, *, match: str = CHANGED) -> PrivacyError:
    before = contents(place)
    with pytest.raises(PrivacyError, match=match) as opening, place.open():
        raise AssertionError("it was opened")
    assert opening.value.found
    assert opening.value.next_step
    assert contents(place) == before  # nothing is deleted, repaired or begun anew
    return opening.value


def contents(place: Place) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in place.ledger.parent.rglob("*") if p.is_file()}


def lines(place: Place) -> list[bytes]:
    return place.file.read_bytes().splitlines(keepends=True)


def write_lines(place: Place, content: list[bytes]) -> None:
    place.file.write_bytes(b"".join(content))
