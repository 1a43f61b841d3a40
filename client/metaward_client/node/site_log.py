"""What happened at a site: who agreed to what, what each order got, who changed the ledger.

Three sources, none of which holds patient data: the approvals, the site's log of orders, and the
entries of the ledger that a person made. The ledger's other entries are in `metaward site budget`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaward.config import load_settings
from metaward.privacy_promise import NO_MECHANISM
from metaward_client.node.approval import Approval
from metaward_client.node.node_folder import NodeFolder
from metaward_client.privacy.ledger.chain import Entry, Kind
from metaward_client.privacy.ledger.snapshot import read_entries, was_made
from metaward_client.privacy.policy import ProtectedSettings


@dataclass(frozen=True, order=True)
class Event:
    """One thing that happened.

    Attributes:
        time: UTC, ISO 8601.
        what: A word or two.
        study: Its digest; empty where no study is meant.
        round_index: None where no round is meant.
        detail: For people.
    """

    time: str
    what: str
    study: str = ""
    round_index: int | None = None
    detail: str = ""


def node_events(node: NodeFolder) -> list[Event]:
    """Return approvals and orders in order of time."""
    return sorted([*_approvals(node.approvals), *_orders(node.round_log)], key=lambda e: e.time)


def ledger_events(policy: ProtectedSettings) -> list[Event]:
    """Return what people did to the ledger; nothing where none was ever made.

    Raises:
        PrivacyError: It is not as it was left.
    """
    if not was_made(policy.ledger, policy.witness):
        return []
    entries = read_entries(policy.ledger, policy.witness)
    return [event for entry in entries if (event := _by_a_person(entry))]


def _approvals(folder: Path) -> Iterator[Event]:
    for path in folder.glob("[!.]*.yaml"):
        approval = load_settings(path, Approval)
        detail = f"{approval.study.name}, by {approval.approved_by}"
        yield Event(approval.approved_at, "approved", approval.study_digest, None, detail)


def sent_without_mechanism(node: NodeFolder) -> int:
    """Return how many answers left without a mechanism, as far as the node's log says."""
    return sum(entry.get("mechanism") == NO_MECHANISM for entry in _entries(node.round_log))


def _orders(path: Path) -> Iterator[Event]:
    for number, entry in enumerate(_entries(path), start=1):
        try:
            yield Event(
                time=entry["time"],
                what=entry["outcome"],
                study=entry.get("study", ""),
                round_index=entry.get("round_index"),
                detail=entry.get("reason") or f"{entry['mechanism']}, {entry['seconds']:.1f} s",
            )
        except (ValueError, KeyError, TypeError):
            yield Event("", "unreadable", detail=f"line {number} of {path.name} was cut off")


def _entries(path: Path) -> Iterator[dict[str, Any]]:  # Any: JSON holds any plain value
    """Yield what each line holds; nothing for one that was cut off."""
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {}
        yield entry if isinstance(entry, dict) else {}


def _by_a_person(entry: Entry) -> Event | None:
    said = entry.payload
    match entry.kind:
        case Kind.OPEN:
            what, detail = "ledger made", _budget(said)
        case Kind.BUDGET:
            detail = f"{_budget(said['from'])} to {_budget(said['to'])}: {said['reason']}"
            what = "budget raised"
        case Kind.CLOCK:
            what, detail = "clock accepted", f"{said['from']} to {said['to']}: {said['reason']}"
        case _:
            return None
    return Event(entry.time, what, detail=detail)


def _budget(said: Any) -> str:  # Any: JSON holds any plain value
    return f"epsilon {said['target_epsilon']:g} at delta {said['target_delta']:g}"
