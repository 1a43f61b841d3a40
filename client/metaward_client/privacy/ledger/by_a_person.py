"""What only a person does to a ledger, with a recorded reason: raise the budget, accept a clock."""

from pathlib import Path

from metaward.errors import ConfigError
from metaward_client.privacy.ledger.chain import Kind
from metaward_client.privacy.ledger.clock import Clock, as_text, goes_back, utc_now
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.journal import open_journal
from metaward_client.privacy.ledger.state import budget_payload
from metaward_client.privacy.terms import Budget

MOST_REASON = 500
WAIT_S = 30.0


def raise_budget(
    folder: Path,
    witness: Path | None,
    to: Budget,
    reason: str,
    *,
    clock: Clock = utc_now,
    wait_s: float = WAIT_S,
    disk: Disk | None = None,
) -> Budget:
    """Record that a person raised what may be spent; site.yaml must ask for it too.

    Returns:
        The budget before.

    Raises:
        ConfigError: Nothing is raised, something is lowered, or there is no reason.
        PrivacyError: The ledger is not as it was left.
    """
    reason = plain_reason(reason)
    with open_journal(folder, witness, clock=clock, wait_s=wait_s, disk=disk or Disk()) as journal:
        before = journal.state.budget
        lower = to.target_epsilon < before.target_epsilon or to.target_delta < before.target_delta
        if lower or to == before:
            raise ConfigError(
                f"epsilon {to.target_epsilon:g}, delta {to.target_delta:g}",
                expected=f"more than the recorded epsilon {before.target_epsilon:g}, "
                f"delta {before.target_delta:g}, and neither below it",
                next_step="To spend less, lower it in site.yaml: what allows less holds.",
            )
        journal.append(Kind.BUDGET, budget_payload(before, to, reason))
    return before


def accept_clock(
    folder: Path,
    witness: Path | None,
    reason: str,
    *,
    clock: Clock = utc_now,
    wait_s: float = WAIT_S,
    disk: Disk | None = None,
) -> None:
    """Record that a person says: the clock is right now, and was wrong at the last entry.

    Raises:
        ConfigError: The clock does not stand before the last entry, or there is no reason.
        PrivacyError: The ledger is not as it was left.
    """
    reason = plain_reason(reason)
    with open_journal(
        folder, witness, clock=clock, wait_s=wait_s, disk=disk or Disk(), any_clock=True
    ) as journal:
        last_time, now = journal.state.last_time, clock()
        if not goes_back(now, last_time):
            raise ConfigError(
                f"a clock that says {as_text(now)}",
                expected=f"one that is more than five minutes before the last entry, {last_time}",
                next_step="There is nothing to accept; the ledger works.",
            )
        entry = {"from": last_time, "to": as_text(now), "reason": reason}
        journal.append_new_time(entry)


def plain_reason(reason: str) -> str:
    """Return a reason as it is recorded.

    Raises:
        ConfigError: It is empty, too long, or holds control characters.
    """
    text = reason.strip()
    if text.isprintable() and 0 < len(text) <= MOST_REASON:
        return text
    raise ConfigError(
        "no reason" if not text else "a reason that is too long or not plain text",
        expected=f"1 to {MOST_REASON} characters on one line, without patient data",
        where="--reason",
        next_step="Say who decided it, and why.",
    )
