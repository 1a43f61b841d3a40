"""How a coordinator stands: certificate, hospitals, studies."""

from datetime import datetime
from typing import Any

from metaward.errors import FederationError
from metaward.run_directory import RunDirectory
from metaward_server.coordinator.home import Coordinator
from metaward_server.coordinator.hospitals import enrolled, presence
from metaward_server.coordinator.studies import StudyFolder, all_studies
from metaward_server.coordinator.troubles import troubles


def standing(coordinator: Coordinator, now: datetime) -> dict[str, Any]:  # Any: JSON
    """Return plain values; a hospital's status is unknown where the SuperLink is away."""
    try:
        seen = [(one.hospital, one.status, one.last_seen) for one in presence(coordinator)]
        is_up = True
    except FederationError:
        seen = [(one.hospital, "unknown", "") for one in enrolled(coordinator)]
        is_up = False
    promises = _promises(coordinator)
    return {
        "name": coordinator.settings.name,
        "address": coordinator.settings.address,
        "running": is_up,
        "certificate_days_left": int(coordinator.days_left(now)),
        "troubles": list(troubles(coordinator, now).values()),
        "hospitals": [
            {"hospital": name, "status": status, "last_seen": last, "promises": promises[name]}
            for name, status, last in seen
        ],
        "studies": [_study(folder) for folder in all_studies(coordinator)],
    }


def _promises(coordinator: Coordinator) -> dict[str, dict[str, str]]:
    """Return hospital -> study -> the last that the hospital said of its privacy there."""
    hospitals = enrolled(coordinator)
    names = {node: one.hospital for one in hospitals for node in (*one.former_nodes, one.node)}
    found: dict[str, dict[str, str]] = {one.hospital: {} for one in hospitals}
    for folder in all_studies(coordinator):
        for node, promise in folder.promises():
            if node in names:
                found[names[node]][folder.path.name] = promise.sentence
    return found


def _study(folder: StudyFolder) -> dict[str, Any]:  # Any: JSON
    state, study = folder.state, folder.study
    events = RunDirectory(folder.path).read_rounds()
    last = events[-1] if events else None
    return {
        "study": study.name,
        "digest": study.digest(),
        "state": state.state,
        "rounds_done": len(events),
        "rounds": study.rounds,
        "last_admitted": last.admitted if last else 0,
        "last_asked": last.asked if last else 0,
        "last_refused": last.refused if last else {},
        "reason": state.reason,
    }


def print_standing(found: dict[str, Any]) -> None:  # Any: JSON
    """Print it for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    running = "running" if found["running"] else "[red]not running[/]"
    days = found["certificate_days_left"]
    console.print(f"[bold]{found['name']}[/] at {escape(found['address'])}: {running}")
    console.print(f"Certificate: {days} days left")
    for trouble in found["troubles"]:
        console.print(f"[yellow]{escape(trouble)}[/]", soft_wrap=True)
    hospitals = Table("hospital", "status", "last seen", "epsilon at most, as it says")
    for one in found["hospitals"]:
        said = "\n".join(f"{study}: {promise}" for study, promise in one["promises"].items())
        hospitals.add_row(one["hospital"], one["status"], one["last_seen"], said)
    console.print(hospitals)
    studies = Table("study", "state", "rounds", "last round", "refused", "cause")
    for one in found["studies"]:
        refused = ", ".join(f"{reason}: {n}" for reason, n in one["last_refused"].items())
        studies.add_row(
            one["study"],
            one["state"],
            f"{one['rounds_done']}/{one['rounds']}",
            f"{one['last_admitted']} of {one['last_asked']}",
            refused,
            escape(one["reason"]),
        )
    console.print(studies)
