"""Where the tests' ledger is: a quick accountant, some rounds, and a clock that stands still."""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ledger_faults import CountingDisk

from metaward_client.privacy.ledger import Ledger, Replay, Reservation, RoundId
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.limits import Accountant
from metaward_client.privacy.terms import Budget, Composition, Relation, Terms

BUDGET = Budget(8.0, 1e-5)
STEPS = 5
TERMS = Terms("dp-sgd", 1.0, 0.5, STEPS, 1.0, 10.0)
"""One round of them costs 1.25: six fit."""
OTHER = Terms("dp-sgd", 2.0, 0.5, STEPS, 1.0, 10.0)
CHEAP = Terms("dp-sgd", 1000.0, 0.5, STEPS, 1.0, 10.0)
"""One round of them costs 0.00125: thousands fit."""
BLOCK = Terms("block", 1.0, 0.5, 1, 1.0, 4.0)
A, B, C = "a" * 64, "b" * 64, "c" * 64
NOON = datetime(2020, 7, 1, 12, tzinfo=UTC)


def cost(composition: Composition, relation: Relation) -> float:
    """A toy epsilon that computes exactly: q / (2 sigma) per step, and four times that replaced."""
    weight = 0.5 if relation is Relation.ADD_OR_REMOVE_ONE else 2.0
    return sum(
        n * weight * step.sample_rate / step.noise_multiplier for step, n in composition.items()
    )


def toy_rounds_within(
    spent: Composition, per_round: Composition, budget: Budget, relation: Relation
) -> int:
    left = budget.target_epsilon - cost(spent, relation)
    return max(0, int(left / cost(per_round, relation)))


TOY = Accountant("toy", toy_rounds_within)


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass(frozen=True)
class Place:
    """Where a ledger and its witness are."""

    ledger: Path
    witness: Path
    clock: Clock = field(default_factory=Clock)

    @property
    def file(self) -> Path:
        return self.ledger / "ledger.jsonl"

    def create(self, disk: Disk | None = None) -> None:
        Ledger.create(
            self.ledger, self.witness, BUDGET, clock=self.clock, disk=disk or CountingDisk()
        )

    def open(self, disk: Disk | None = None, wait_s: float = 0.0) -> AbstractContextManager[Ledger]:
        return Ledger.open(
            self.ledger,
            self.witness,
            clock=self.clock,
            wait_s=wait_s,
            accountant=TOY,
            disk=disk or CountingDisk(),
        )

    def play(
        self,
        rounds: Iterable[RoundId],
        terms: Terms = TERMS,
        disk: Disk | None = None,
        told: Callable[[RoundId, bytes], None] | None = None,
    ) -> dict[RoundId, bytes]:
        """Answer rounds, each as a process of its own would; return what would be sent.

        ``told`` hears of an answer when it may be sent.
        """
        sent = {}
        for round_ in rounds:
            with self.open(disk) as ledger:
                sent[round_] = self.answer(ledger, round_, terms)
            if told is not None:
                told(round_, sent[round_])
        return sent

    def answer(self, ledger: Ledger, round_: RoundId, terms: Terms) -> bytes:
        answer = ledger.reserve(round_, terms, BUDGET)
        if isinstance(answer, Replay):
            return answer.reply
        reply = os.urandom(40)
        ledger.commit(answer, reply, memory_of(round_))
        return reply

    def copy(self, name: str) -> "Place":
        """Copy both folders beside this one."""
        target = self.ledger.parent.with_name(f"{self.ledger.parent.name}-{name}")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.ledger.parent, target)
        return Place(target / "ledger", target / "witness", Clock(self.clock.now))


def memory_of(round_: RoundId) -> bytes:
    return f"memory of {round_.study[:1]}{round_.round_index}".encode()


def new_place(folder: Path, *, made: bool = True) -> Place:
    folder = folder / "both"
    folder.mkdir()
    place = Place(folder / "ledger", folder / "witness")
    if made:
        place.create()
    return place


def reserved(answer: Replay | Reservation) -> Reservation:
    assert isinstance(answer, Reservation)
    return answer
