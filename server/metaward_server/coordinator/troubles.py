"""What keeps a running coordinator from its work, one sentence for each."""

import shlex
from datetime import datetime

from metaward.disk import disk_trouble
from metaward.errors import ConfigError, FederationError
from metaward_server.coordinator.home import Coordinator

SOON_DAYS = 30


def troubles(coordinator: Coordinator, now: datetime) -> dict[str, str]:
    """Return what is wrong now, by name."""
    found = {}
    if said := _of_certificate(coordinator, now):
        renew = f"metaward server renew {shlex.quote(str(coordinator.folder))}, then start again."
        found["certificate"] = f"certificate: {said}. {renew}"
    if disk := disk_trouble(coordinator.folder):
        found["disk"] = f"disk: {disk.said}. {disk.next_step}"
    return found


def _of_certificate(coordinator: Coordinator, now: datetime) -> str:
    try:
        days = coordinator.days_left(now)
    except ConfigError as error:
        return error.found
    if days <= 0:
        return "it has expired, hospitals are cut off"
    return f"{days:.0f} days left" if days < SOON_DAYS else ""


def require_disk(coordinator: Coordinator) -> None:
    """Check that what a study writes can be written.

    Raises:
        FederationError: The disk is full or read-only; studies wait.
    """
    trouble = disk_trouble(coordinator.folder)
    if trouble and trouble.stops_work:
        raise FederationError(
            f"{trouble.said}; studies wait",
            expected="a disk that a checkpoint can be written to",
            where=str(coordinator.folder),
            next_step=trouble.next_step,
        )
