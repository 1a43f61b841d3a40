"""Which hospitals may take part: one file each, and a node in the SuperLink.

The files are the truth. A SuperLink that has lost its state gets the nodes again from them.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from pydantic import Field

from metaward.config import Settings, load_settings
from metaward.enrolment import EnrolmentRequest, Kit
from metaward.errors import ConfigError
from metaward.patterns import NAME
from metaward.whole_file import write_atomically
from metaward_server.coordinator.flower_cli import ask_flower
from metaward_server.coordinator.home import Coordinator


class Enrolled(Settings):
    """The content of `hospitals/NAME.yaml`."""

    hospital: str = Field(pattern=NAME)
    public_key: str
    node: str = Field("", description="number of its node in the SuperLink; empty: not yet there")
    former_nodes: tuple[str, ...] = Field((), description="numbers that lost states had for it")


@dataclass(frozen=True)
class Presence:
    """A hospital as the SuperLink sees it."""

    hospital: str
    status: str
    last_seen: str


def enrol(coordinator: Coordinator, request: EnrolmentRequest) -> Kit:
    """Write a hospital down and return its kit; the node follows in :func:`register_nodes`.

    The same request again gives the same kit.

    Raises:
        ConfigError: See :func:`kit_for`.
    """
    kit = kit_for(coordinator, request)
    path = _file(coordinator, request.hospital)
    if not path.exists():
        _write(path, Enrolled(hospital=request.hospital, public_key=request.public_key))
    return kit


def kit_for(coordinator: Coordinator, request: EnrolmentRequest) -> Kit:
    """Return the kit that answers a request; nothing is written down.

    Raises:
        ConfigError: Another key is enrolled under that name, or the key under another name.
    """
    for other in enrolled(coordinator):
        same_name = other.hospital == request.hospital
        if same_name != (other.public_key == request.public_key):
            raise ConfigError(
                f"hospital {other.hospital} is enrolled "
                + ("with another key" if same_name else "with this very key"),
                expected="one key for one hospital",
                where=str(_file(coordinator, other.hospital)),
                next_step="A new key: `metaward server remove` the old one first. "
                "A second hospital: it makes a key of its own.",
            )
    settings = coordinator.settings
    return Kit(
        hospital=request.hospital,
        federation=settings.name,
        address=settings.address,
        public_key=request.public_key,
        ca_certificate=coordinator.ca_certificate.read_text(encoding="ascii"),
    )


def enrolled(coordinator: Coordinator) -> list[Enrolled]:
    """Return all hospitals, by name."""
    return [
        load_settings(path, Enrolled) for path in sorted(coordinator.hospitals.glob("[!.]*.yaml"))
    ]


def register_nodes(coordinator: Coordinator) -> list[str]:
    """Tell the SuperLink of every hospital that it does not know; return their names.

    Raises:
        FederationError: The SuperLink is not there.
    """
    known = {str(node["node-id"]) for node in _nodes(coordinator)}
    new = [one for one in enrolled(coordinator) if one.node not in known]
    for one in new:
        former = (*one.former_nodes, one.node) if one.node else one.former_nodes
        now = {"node": _register(coordinator, one), "former_nodes": former}
        _write(_file(coordinator, one.hospital), one.model_copy(update=now))
    return [one.hospital for one in new]


def remove(coordinator: Coordinator, hospital: str) -> None:
    """Take a hospital out: its node is refused from now on.

    Raises:
        ConfigError: There is none of that name.
        FederationError: The SuperLink is not there.
    """
    path = _file(coordinator, hospital)
    if not path.exists():
        raise ConfigError(
            f"no hospital {hospital}",
            expected="one of " + (", ".join(one.hospital for one in enrolled(coordinator)) or "-"),
            where=str(coordinator.hospitals),
            next_step="metaward server status lists them.",
        )
    node = load_settings(path, Enrolled).node
    if node in {str(known["node-id"]) for known in _nodes(coordinator)}:
        ask_flower(coordinator, "supernode", "unregister", node)
    path.unlink()


def presence(coordinator: Coordinator) -> list[Presence]:
    """Return who is there and who is not.

    Raises:
        FederationError: The SuperLink is not there.
    """
    nodes = {str(node["node-id"]): node for node in _nodes(coordinator)}
    found = []
    for one in enrolled(coordinator):
        node = nodes.get(one.node, {})
        status = str(node.get("status", "not registered"))
        seen = "now" if status == "online" else node.get("offline-at")
        found.append(Presence(one.hospital, status, str(seen or "N/A")))
    return found


def _nodes(coordinator: Coordinator) -> list[dict[str, str]]:
    nodes = ask_flower(coordinator, "supernode", "list")["nodes"]
    assert isinstance(nodes, list)
    return nodes


def _register(coordinator: Coordinator, one: Enrolled) -> str:
    with TemporaryDirectory() as folder:
        key = Path(folder) / "key.pub"
        key.write_text(one.public_key, encoding="ascii")
        answer = ask_flower(coordinator, "supernode", "register", str(key), name=one.hospital)
    return str(answer["node-id"])


def _file(coordinator: Coordinator, hospital: str) -> Path:
    return coordinator.hospitals / f"{hospital}.yaml"


def _write(path: Path, one: Enrolled) -> None:
    write_atomically(path, yaml.safe_dump(one.model_dump(mode="json"), sort_keys=False, width=1000))
