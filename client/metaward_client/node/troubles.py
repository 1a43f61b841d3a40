"""What keeps a running node from its work, one sentence for each: said where it was started.

Flower's node waits, or ends and is started again, and says why in its own log and its own words, or
not at all: one whose signature is not taken ends as if somebody had pressed Ctrl-C.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from metaward_client.node.coordinator_check import look_at_coordinator
from metaward_client.node.disk_check import look_at_disks
from metaward_client.node.finding import Finding
from metaward_client.node.node_folder import NodeFolder, read_kit
from metaward_client.site_config import SiteConfig

SUPERNODE_LOG = "supernode.log"
TAIL_BYTES = 20_000
REFUSED = b"[code: 2004]"
"""Flower's number for a node that is not let in (``ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED``)."""
LET_IN = b"SuperNode ID:"


def troubles(node: NodeFolder, config: SiteConfig) -> dict[str, str]:
    """Return what is wrong now, by name."""
    found = [
        *look_at_coordinator(read_kit(node).address, node.ca_certificate),
        *look_at_disks(config, node.path),
        *_refused(node.log / SUPERNODE_LOG),
    ]
    return {finding.name: finding.sentence for finding in found if finding.state == "wrong"}


def _refused(log: Path) -> Iterator[Finding]:
    """Find out whether the coordinator lets the node in; from Flower's log, newest lines first."""
    tail = _tail(log)
    if tail.rfind(REFUSED) > tail.rfind(LET_IN):
        said = "the coordinator does not let this node in"
        step = (
            "After a kill that is over in two minutes. If it is not: ask the coordinator whether "
            "this hospital is still enrolled, with this key."
        )
        yield Finding("SuperNode", "wrong", said, step, 5)


def _tail(log: Path) -> bytes:
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES), os.SEEK_SET)
        return file.read()
