"""Read a ledger without its lock, while a round may be running: all of it, by the writer's rule.

A reader may be between two writes: the file holds more than the head that was read before it. So
what breaks the rule is looked at again. A round that is being written has moved on by then, since
its head follows each entry before the next is begun; what somebody changed is still the same, and
only that is refused.
"""

from dataclasses import dataclass, field
from pathlib import Path

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger.chain import Entry, Head, read_chain
from metaward_client.privacy.ledger.clock import Clock, require_clock, utc_now
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.journal import LEDGER_FILE, REPLIES_FOLDER, places
from metaward_client.privacy.ledger.own_folder import open_folder
from metaward_client.privacy.ledger.replies import Replies, stored
from metaward_client.privacy.ledger.state import LedgerState
from metaward_client.privacy.ledger.witness import HEAD, open_witness


@dataclass(frozen=True)
class _Seen:
    """Witness and ledger as they were, one read after the other."""

    key: bytes = field(repr=False)
    head: Head
    content: bytes = field(repr=False)


def was_made(folder: Path, witness: Path | None = None) -> bool:
    """Say whether a ledger stands here, or a witness says that one stood: then it is to be read."""
    ledger_path, witness_path = places(folder, witness)
    return _stands(ledger_path) or _stands(witness_path / HEAD)


def read_ledger(
    folder: Path, witness: Path | None = None, *, clock: Clock = utc_now, disk: Disk | None = None
) -> LedgerState:
    """Return what a ledger says; writes nothing and waits for nobody.

    Raises:
        PrivacyError: It is not as it was left.
    """
    where = str(places(folder, witness)[0])
    state = LedgerState(read_entries(folder, witness, disk=disk), where)
    require_clock(clock(), state.last_time, where)
    return state


def read_entries(
    folder: Path, witness: Path | None = None, *, disk: Disk | None = None
) -> tuple[Entry, ...]:
    """Return all entries, verified; writes nothing and waits for nobody.

    Raises:
        PrivacyError: They are not as they were left.
    """
    disk = disk or Disk()
    ledger_path, witness_path = places(folder, witness)
    where = str(ledger_path / LEDGER_FILE)
    seen = _look(ledger_path, witness_path, disk)
    while True:
        try:
            return read_chain(seen.content, seen.head, seen.key, where).entries
        except PrivacyError:
            again = _look(ledger_path, witness_path, disk)
            if again == seen:
                raise
            seen = again


def verify_ledger(
    folder: Path, witness: Path | None = None, *, clock: Clock = utc_now, disk: Disk | None = None
) -> LedgerState:
    """Verify all entries and all stored answers; return what the ledger says.

    Raises:
        PrivacyError: Something is not as it was left.
    """
    while True:
        state = read_ledger(folder, witness, clock=clock, disk=disk)
        try:
            _verify_replies(state, places(folder, witness)[0], disk or Disk())
        except PrivacyError:
            after = read_ledger(folder, witness, clock=clock, disk=disk)
            if after.entries == state.entries:
                raise
            continue  # a round was committed in between, and an old answer removed
        return state


def _stands(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:  # what it is, is said by who reads it
        return True
    return True


def _look(ledger_path: Path, witness_path: Path, disk: Disk) -> _Seen:
    with open_folder(ledger_path, disk) as ledger_folder:
        with open_witness(witness_path, disk) as witness:
            key, head = witness.key, witness.head()  # before the file, which only grows
        return _Seen(key, head, ledger_folder.read(LEDGER_FILE))


def _verify_replies(state: LedgerState, ledger_path: Path, disk: Disk) -> None:
    with open_folder(ledger_path / REPLIES_FOLDER, disk) as folder:
        replies = Replies(folder)
        for study in state.studies.values():
            for round_, what, digest in stored(study):
                replies.read(round_, what, digest)
