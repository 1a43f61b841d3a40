"""The ledger's file and its witness, locked, verified, and written one entry at a time.

An entry counts when its line is on the disk; the head follows. What a process that ended between
the two leaves behind is put right when the journal is opened (see chain.py), and a line that was
cut off is noted.
"""

import contextlib
import hmac
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from metaward.errors import ConfigError, PrivacyError
from metaward_client.named_paths import real_path
from metaward_client.privacy.ledger.chain import Chain, Head, Kind, read_chain, seal_entry
from metaward_client.privacy.ledger.clock import Clock, as_text, require_clock, time_of_entry
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.own_folder import Folder, open_folder
from metaward_client.privacy.ledger.refusals import tampered
from metaward_client.privacy.ledger.state import LedgerState, Payload
from metaward_client.privacy.ledger.witness import (
    Witness,
    default_witness,
    open_witness,
    plain_path,
)

LEDGER_FILE = "ledger.jsonl"
REPLIES_FOLDER = "replies"


class Journal:
    """Open ledger file of one process; see :func:`open_journal`.

    Attributes:
        folder: The ledger's folder.
        state: What the entries say together; grows with each append.
    """

    def __init__(
        self, folder: Folder, file: int, witness: Witness, chain: Chain, clock: Clock
    ) -> None:
        self.folder = folder
        self.state = LedgerState(chain.entries, str(folder.path))
        self._file = file
        self._witness = witness
        self._clock = clock
        self._head = chain.head
        self._length = chain.length
        self._whole = True

    def now(self) -> datetime:
        """Return the machine's time.

        Raises:
            PrivacyError: It is before the last entry.
        """
        now = self._clock()
        require_clock(now, self.state.last_time, str(self.folder.path))
        return now

    def derived_key(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes that are the same for one ledger and purpose."""
        return hmac.digest(self._witness.key, b"derived key: " + purpose, "sha256")

    def append(self, kind: Kind, payload: Payload) -> None:
        """Write one entry; it and the head that counts it are on the disk when it returns.

        Raises:
            PrivacyError: Clock, disk, or file are not as they must be. After a failed write
                nothing more is written until the ledger is opened again.
        """
        self._append(kind, payload, time_of_entry(self.now(), self.state.last_time))

    def append_new_time(self, payload: Payload) -> None:
        """Write a ``clock`` entry, whose time may be before that of the entry before."""
        self._append(Kind.CLOCK, payload, as_text(self._clock()))

    def _append(self, kind: Kind, payload: Payload, time: str) -> None:
        self._require_untouched()
        line, entry = seal_entry(self._head, time, kind, payload, self._witness.key)
        head = Head(entry.index + 1, entry.digest)
        self._whole = False
        self.folder.append(self._file, LEDGER_FILE, line)
        self._witness.advance(head)
        self._whole = True
        self._head = head
        self._length += len(line)
        self.state.apply(entry)

    def _require_untouched(self) -> None:
        where = str(self.folder.path / LEDGER_FILE)
        if not self._whole:
            raise PrivacyError(
                "the last write failed",
                where=where,
                next_step="Nothing was released. Open the ledger again: start the client anew.",
            )
        status = os.fstat(self._file)
        if status.st_size != self._length or status.st_nlink != 1:
            raise tampered("it was changed or removed while it was in use", where=where)


@contextlib.contextmanager
def open_journal(
    folder: Path,
    witness: Path | None,
    *,
    clock: Clock,
    wait_s: float,
    disk: Disk,
    any_clock: bool = False,
) -> Iterator[Journal]:
    """Open a ledger for this process alone, verify all of it, and put right what a crash left.

    Args:
        folder: The ledger's folder.
        witness: The folder of key and head; by default see ``default_witness``.
        clock: Gives the machine's time, with a time zone.
        wait_s: Seconds to wait for another process.
        disk: The effects on the disk.
        any_clock: Open although the clock stands before the last entry.

    Raises:
        PrivacyError: Whatever is not as it was left.
    """
    ledger_path, witness_path = places(folder, witness)
    with (
        open_folder(ledger_path, disk) as ledger_folder,
        ledger_folder.open(LEDGER_FILE, os.O_RDWR | os.O_APPEND) as file,
    ):
        ledger_folder.lock(file, LEDGER_FILE, wait_s)
        with open_witness(witness_path, disk) as open_one:
            head = open_one.head()
            content = ledger_folder.read_all(file, LEDGER_FILE)
            where = str(ledger_path / LEDGER_FILE)
            chain = read_chain(content, head, open_one.key, where)
            journal = Journal(ledger_folder, file, open_one, chain, clock)
            if not any_clock:
                journal.now()
            _put_right(journal, file, open_one, chain, head)
            yield journal


def places(folder: Path, witness: Path | None) -> tuple[Path, Path]:
    """Return the absolute folders of a ledger and of its witness.

    Raises:
        ConfigError: One is in the other, so that both would be copied back together.
    """
    ledger_path = plain_path(folder)
    witness_path = default_witness(folder) if witness is None else plain_path(witness)
    real, other = real_path(ledger_path), real_path(witness_path)
    if real.is_relative_to(other) or other.is_relative_to(real):
        raise ConfigError(
            "the ledger and its witness are in one folder",
            expected="two folders, best on two disks",
            where=str(witness_path),
            next_step="Name another folder for one of them in site.yaml.",
        )
    return ledger_path, witness_path


def _put_right(journal: Journal, file: int, witness: Witness, chain: Chain, head: Head) -> None:
    """Bring file and head together after a crash, and both onto the disk."""
    witness.folder.sync()  # the last head's name may not be on the disk
    if len(chain.entries) == 1:  # just made: its name may not be on the disk
        journal.folder.sync()
    if chain.head != head:
        journal.folder.append(file, LEDGER_FILE, b"")  # the line itself may not be on the disk
        witness.advance(chain.head)
    if chain.torn:
        journal.folder.truncate(file, LEDGER_FILE, chain.length)
        journal.append(Kind.CUT, {"bytes": chain.torn})
