"""Which hospitals may take part: one file each, and a node in the SuperLink.

    hospitals/NAME.yaml             who is enrolled
    hospitals/.removed/KEY.yaml     who was taken out; Flower takes such a key never again

The files are the truth. A SuperLink that has lost its state gets the nodes again from them.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from pydantic import Field

from metaward.config import Settings, load_settings
from metaward.enrolment import EnrolmentRequest, Kit
from metaward.errors import ConfigError, FederationError
from metaward.patterns import NAME
from metaward.private_file import make_private_folder
from metaward.services import only_one
from metaward.whole_file import write_atomically
from metaward_server.coordinator.flower_cli import ask_flower
from metaward_server.coordinator.home import Coordinator

logger = logging.getLogger(__name__)

REMOVED_FOLDER = ".removed"
UNREGISTERED = "unregistered"
"""Status of a node that was taken out; Flower lists it, and keeps its key, for ever."""


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
    with _turn(coordinator):
        kit = kit_for(coordinator, request)
        path = _file(coordinator, request.hospital)
        if not path.exists():
            _write(path, Enrolled(hospital=request.hospital, public_key=request.public_key))
    return kit


def kit_for(coordinator: Coordinator, request: EnrolmentRequest) -> Kit:
    """Return the kit that answers a request; nothing is written down.

    Raises:
        ConfigError: Another key is enrolled under that name, or the key under another name; or the
            key was taken out.
    """
    removed = _removed_file(coordinator, request.public_key)
    if removed.exists():
        raise ConfigError(
            "a key that was taken out",
            expected="a new one: Flower takes no key twice",
            where=str(removed),
            next_step="Ask the hospital to move its folder `node` away and to make a new key with "
            "`metaward site init`.",
        )
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

    A hospital whom the SuperLink refuses is logged, and stops no other.

    Raises:
        FederationError: The SuperLink is not there.
    """
    nodes = _nodes(coordinator)
    return [
        one.hospital
        for one in enrolled(coordinator)
        if one.node not in nodes and _gets_a_node(coordinator, one.hospital, nodes)
    ]


def _gets_a_node(coordinator: Coordinator, hospital: str, nodes: Mapping[str, str]) -> bool:
    path = _file(coordinator, hospital)
    with _turn(coordinator):
        if not path.exists():  # it was taken out meanwhile
            return False
        one = load_settings(path, Enrolled)
        try:
            node = _own_node(one, nodes) or _register(coordinator, one)
        except FederationError as error:
            node = _left_behind(coordinator, nodes)
            if not node:
                logger.warning("hospital %s: %s", hospital, error)
                return False
        former = (*one.former_nodes, one.node) if one.node else one.former_nodes
        _write(path, one.model_copy(update={"node": node, "former_nodes": former}))
    return True


def remove(coordinator: Coordinator, hospital: str) -> None:
    """Take a hospital out: its node is refused from now on.

    Raises:
        ConfigError: There is none of that name.
        FederationError: The SuperLink is not there.
    """
    path = _file(coordinator, hospital)
    with _turn(coordinator):
        if not path.exists():
            raise ConfigError(
                f"no hospital {hospital}",
                expected="one of "
                + (", ".join(one.hospital for one in enrolled(coordinator)) or "-"),
                where=str(coordinator.hospitals),
                next_step="metaward server status lists them.",
            )
        one = load_settings(path, Enrolled)
        nodes = _nodes(coordinator)
        make_private_folder(coordinator.hospitals / REMOVED_FOLDER)
        _write(_removed_file(coordinator, one.public_key), one)
        known = one.node in nodes
        if node := _own_node(one, nodes) or ("" if known else _left_behind(coordinator, nodes)):
            ask_flower(coordinator, "supernode", "unregister", node)
        path.unlink()


def _own_node(one: Enrolled, nodes: Mapping[str, str]) -> str:
    """Return the node that the SuperLink has for a hospital; nothing where it has none.

    Args:
        one: The hospital; an older state of the SuperLink may have come back.
        nodes: Of the SuperLink: number and status.
    """
    alive = (n for n in (one.node, *reversed(one.former_nodes)) if n in _alive(nodes))
    return next(alive, "")


def _left_behind(coordinator: Coordinator, nodes: Mapping[str, str]) -> str:
    """Return the node that must be that of the only hospital without one; else nothing.

    A keeper that was killed between the SuperLink's answer and the file leaves a node that is in
    no file, and whose key the SuperLink takes no second time. Of several, nobody can tell.
    """
    hospitals = enrolled(coordinator)
    nobodys = _alive(nodes).difference(*((*one.former_nodes, one.node) for one in hospitals))
    without = [one for one in hospitals if one.node not in nodes]
    return nobodys.pop() if len(nobodys) == len(without) == 1 else ""


def _alive(nodes: Mapping[str, str]) -> set[str]:
    return {number for number, status in nodes.items() if status != UNREGISTERED}


def presence(coordinator: Coordinator) -> list[Presence]:
    """Return who is there and who is not.

    Raises:
        FederationError: The SuperLink is not there.
    """
    nodes = {str(node["node-id"]): node for node in _listed(coordinator)}
    found = []
    for one in enrolled(coordinator):
        node = nodes.get(one.node, {})
        status = str(node.get("status", "not registered"))
        seen = "now" if status == "online" else node.get("offline-at")
        found.append(Presence(one.hospital, status, str(seen or "N/A")))
    return found


def _nodes(coordinator: Coordinator) -> dict[str, str]:
    return {str(node["node-id"]): str(node["status"]) for node in _listed(coordinator)}


def _listed(coordinator: Coordinator) -> list[dict[str, str]]:
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


def _removed_file(coordinator: Coordinator, public_key: str) -> Path:
    name = hashlib.sha256(public_key.encode()).hexdigest()[:32]
    return coordinator.hospitals / REMOVED_FOLDER / f"{name}.yaml"


@contextmanager
def _turn(coordinator: Coordinator) -> Iterator[None]:
    """Wait until nobody else changes a hospital's file, and keep others from it meanwhile."""
    with only_one(coordinator.hospitals, "another change of a hospital", wait=True):
        yield


def _write(path: Path, one: Enrolled) -> None:
    write_atomically(path, yaml.safe_dump(one.model_dump(mode="json"), sort_keys=False, width=1000))
