"""The hospital's ledger: charge a round before its work, answer a repeated one with the same bytes.

One ledger per data set and patient population, for all studies, coordinators and restarts. Of a
round the order is fixed, and each step is on the disk before the next begins:

    reserve   study and charge are entries of the chain; only now may work begin
    (work)    noise is drawn, the answer computed
    commit    the answer's bytes, then the entry with their digest; only now may they be sent

So after a crash at any point: what could have been sent is charged, nothing is charged twice, and a
round has one answer. A round that was charged and not committed is computed again under the same
charge, because nothing of the first attempt left the site. Nothing is ever given back.

What is detected when a ledger is opened or read, and then refused: a missing, shortened, altered,
reordered or foreign ledger, key, head or stored answer; an older copy of the ledger or of the
witness; a clock that went back; links, other owners, open permissions; a second process.

NOT detected: an older copy of the ledger AND its witness (see witness.py), and somebody who has the
site's key and writes with it: a user who can read the witness can do whatever metaward can.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger.chain import Kind
from metaward_client.privacy.ledger.clock import Clock, utc_now
from metaward_client.privacy.ledger.create import create_ledger
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.journal import REPLIES_FOLDER, Journal, open_journal
from metaward_client.privacy.ledger.limits import Accountant, accountant_of_record
from metaward_client.privacy.ledger.own_folder import open_folder
from metaward_client.privacy.ledger.replies import MEMORY, REPLY, Replies, file_name, stored
from metaward_client.privacy.ledger.room import require_room
from metaward_client.privacy.ledger.rounds import Replay, Reservation, RoundId
from metaward_client.privacy.ledger.rules import (
    require_below_bound,
    require_pinned,
    require_recorded,
)
from metaward_client.privacy.ledger.state import (
    Commit,
    LedgerState,
    Release,
    StudyRecord,
    commit_payload,
    reserve_payload,
    study_payload,
)
from metaward_client.privacy.terms import Budget, Terms

WAIT_S = 30.0


class Ledger:
    """An open ledger, this process's alone until the ``with`` block ends."""

    def __init__(self, journal: Journal, replies: Replies, accountant: Accountant) -> None:
        self._journal = journal
        self._replies = replies
        self._accountant = accountant
        self._issued: dict[RoundId, Reservation] = {}

    @staticmethod
    def create(
        folder: Path,
        witness: Path | None,
        budget: Budget,
        *,
        clock: Clock = utc_now,
        disk: Disk | None = None,
    ) -> str:
        """Make a ledger; see :func:`~metaward_client.privacy.ledger.create.create_ledger`."""
        return create_ledger(folder, witness, budget, clock=clock, disk=disk or Disk())

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        folder: Path,
        witness: Path | None = None,
        *,
        clock: Clock = utc_now,
        wait_s: float = WAIT_S,
        accountant: Accountant | None = None,
        disk: Disk | None = None,
    ) -> Iterator["Ledger"]:
        """Lock a ledger and verify every entry of it.

        Args:
            folder: The ledger's folder.
            witness: The folder of key and head; by default see ``default_witness``.
            clock: Gives the machine's time, with a time zone.
            wait_s: Seconds to wait for another process.
            accountant: By default the one of record; tests bring a quick one.
            disk: The effects on the disk; tests bring one that fails.

        Raises:
            PrivacyError: Whatever is not as it was left, and a second process.
        """
        disk = disk or Disk()
        with (
            open_journal(folder, witness, clock=clock, wait_s=wait_s, disk=disk) as journal,
            open_folder(journal.folder.path / REPLIES_FOLDER, disk) as replies,
        ):
            yield cls(journal, Replies(replies), accountant or accountant_of_record())

    @property
    def state(self) -> LedgerState:
        """What the ledger says; to read."""
        return self._journal.state

    def derived_key(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes of this ledger's own, always the same for one purpose."""
        return self._journal.derived_key(purpose)

    def reserve(
        self, round_: RoundId, terms: Terms, budget: Budget, *, max_rounds: int | None = None
    ) -> Replay | Reservation:
        """Charge a round before its work; or return what it was answered before.

        Args:
            round_: Which round.
            terms: What it costs; those of the study's first round.
            budget: The hospital's, from site.yaml. What the ledger records is the most.
            max_rounds: The hospital's bound on the study's rounds. The smaller of this and of what
                was given at the study's first round holds.

        Returns:
            The committed answer, to be sent again as it is; or a reservation, which is on the disk.

        Raises:
            BudgetExceeded: The round does not fit into what is left. Nothing was charged.
            PrivacyError: Terms, budget, round or disk forbid it. Nothing was charged, unless the
                disk failed while the charge was written: then it may be, and the same round asked
                again goes on from there.
        """
        study = self.state.studies.get(round_.study)
        release = study.releases.get(round_.round_index) if study else None
        if study and release and release.commit:
            return self._replay(study, release, release.commit)
        require_pinned(study, release, terms, round_)
        require_below_bound(study, max_rounds, round_)
        require_recorded(self.state.budget, budget)
        charge = terms.per_round()
        memory = self._memory_of(study)
        relation = self.state.relation_with(terms)
        require_room(self._journal, round_, charge, budget, relation, self._accountant)
        if study is None:
            self._journal.append(Kind.STUDY, study_payload(round_.study, terms, max_rounds))
        if release is None:
            self._journal.append(Kind.RESERVE, reserve_payload(round_, terms))
        reservation = Reservation(round_, charge, memory, resumed=release is not None)
        self._issued[round_] = reservation
        return reservation

    def commit(self, reservation: Reservation, reply: bytes, memory: bytes | None = None) -> None:
        """Store a round's answer; it may be sent once this returns, and not before.

        Args:
            reservation: As :meth:`reserve` of this open ledger returned it.
            reply: The bytes that will be sent, now and whenever the round is asked again.
            memory: Local state that the study's next round gets; stays on the disk.

        Raises:
            PrivacyError: The reservation is not one of this open ledger, was committed before, or
                the disk failed.
        """
        round_ = reservation.round
        if self._issued.get(round_) is not reservation:
            raise PrivacyError(
                "a reservation that this open ledger did not give, or that is committed",
                where=round_.where,
                next_step="Nothing was sent. Reserve the round again.",
            )
        left = Commit(
            self._replies.store(round_, REPLY, reply),
            None if memory is None else self._replies.store(round_, MEMORY, memory),
        )
        self._journal.append(Kind.COMMIT, commit_payload(round_, left))
        del self._issued[round_]
        self._replies.keep_only(
            file_name(kept, what)
            for study in self.state.studies.values()
            for kept, what, _ in stored(study)
        )

    def _replay(self, study: StudyRecord, release: Release, commit: Commit) -> Replay:
        if release.round.round_index not in study.kept():
            raise PrivacyError(
                "a round that was answered long ago",
                expected=f"one of the newest {len(study.kept())} of its study, whose answers are "
                "kept",
                where=release.round.where,
                next_step="Nothing was sent. Ask the coordinator why it wants this round again.",
            )
        return Replay(self._replies.read(release.round, REPLY, commit.reply))

    def _memory_of(self, study: StudyRecord | None) -> bytes | None:
        """Return what the study's last committed round left for the next one."""
        kept = [] if study is None else stored(study)
        for round_, what, digest in kept:
            if what == MEMORY:
                return self._replies.read(round_, what, digest)
        return None
