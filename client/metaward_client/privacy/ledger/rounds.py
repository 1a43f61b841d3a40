"""One round of one study, and the two answers that a ledger gives about it."""

import re
from dataclasses import dataclass, field

from metaward.errors import PrivacyError
from metaward_client.privacy.terms import Composition

MAX_ROUND_INDEX = 10**9


@dataclass(frozen=True, order=True)
class RoundId:
    """Which release: it is charged once and answered with the same bytes ever after.

    Args:
        study: The study's digest: SHA-256 in hex.
        round_index: From 0 to a thousand million.

    Raises:
        PrivacyError: Not a digest or not an index; both may come from the coordinator.
    """

    study: str
    round_index: int

    def __post_init__(self) -> None:
        if not (isinstance(self.study, str) and re.fullmatch("[0-9a-f]{64}", self.study)):
            raise PrivacyError(
                "something else than a study's digest",
                expected="SHA-256 in hex, 64 characters",
                next_step="Nothing was released; ask the coordinator which study this is.",
            )
        if type(self.round_index) is not int or not 0 <= self.round_index <= MAX_ROUND_INDEX:
            raise PrivacyError(
                f"round {self.round_index!r}",
                expected=f"a whole number from 0 to {MAX_ROUND_INDEX}",
                where=f"study {self.study[:12]}",
                next_step="Nothing was released; ask the coordinator what it asked for.",
            )

    @property
    def where(self) -> str:
        """The round, as messages name it."""
        return f"study {self.study[:12]}, round {self.round_index}"


@dataclass(frozen=True)
class Replay:
    """The round was answered before: send these bytes again, compute nothing.

    Attributes:
        reply: What was committed, to the byte.
    """

    reply: bytes


@dataclass(frozen=True)
class Reservation:
    """The round is paid for and may be computed, once.

    Attributes:
        round: Which round.
        charge: What the ledger has counted for it.
        memory: What the study's last committed round left for the next one; ``None`` at first.
        resumed: Whether it was charged before, in a process that ended before its commit. Nothing
            left the site then, so it is not charged again.
    """

    round: RoundId
    charge: Composition
    memory: bytes | None = field(repr=False)
    resumed: bool
