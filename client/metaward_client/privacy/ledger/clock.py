"""The ledger's time: UTC, never backwards, unless a person says that the clock was wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger.refusals import ACCEPT_CLOCK

Clock = Callable[[], datetime]

TOLERANCE = timedelta(minutes=5)
"""What a time server may correct; an entry then takes the time of the one before."""


def utc_now() -> datetime:
    """Return the machine's time."""
    return datetime.now(UTC)


def as_text(time: datetime) -> str:
    """Return a time as an entry states it.

    >>> as_text(datetime(2026, 7, 1, 12, 30, tzinfo=UTC))
    '2026-07-01T12:30:00+00:00'
    """
    return time.astimezone(UTC).isoformat(timespec="seconds")


def goes_back(now: datetime, last_time: str) -> bool:
    """Say whether ``now`` is further before the last entry than a correction explains."""
    return now < datetime.fromisoformat(last_time) - TOLERANCE


def require_clock(now: datetime, last_time: str, where: str) -> None:
    """Refuse to go on where the clock stands before the last entry.

    Raises:
        PrivacyError: By more than five minutes.
    """
    if goes_back(now, last_time):
        raise PrivacyError(
            f"the clock says {as_text(now)}",
            expected=f"not before the last entry, {last_time}",
            where=where,
            next_step="Nothing was released. Set the clock; if it is right and was wrong before, "
            f"a person accepts it: `{ACCEPT_CLOCK}`.",
        )


def time_of_entry(now: datetime, last_time: str) -> str:
    """Return the time for the next entry: now, or that of the entry before where it is later."""
    return max(as_text(now), last_time)
