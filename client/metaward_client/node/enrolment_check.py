"""Does the coordinator let this node in? The running node knows, and says so in Flower's words."""

import os
from collections.abc import Iterator
from pathlib import Path

from metaward_client.node.finding import Finding

SUPERNODE_LOG = "supernode.log"
TAIL_BYTES = 20_000
REFUSED = b"[code: 2004]"
"""Flower's number for a node that is not let in (``ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED``)."""
LET_IN = b"SuperNode ID:"


def look_at_enrolment(log: Path) -> Iterator[Finding]:
    """Say what the node was last told; nothing where it has not asked.

    Args:
        log: The folder of the node's logs.
    """
    tail = _tail(log / SUPERNODE_LOG)
    refused, let_in = tail.rfind(REFUSED), tail.rfind(LET_IN)
    if refused > let_in:
        said = "the coordinator does not let this node in"
        step = (
            "After a kill that is over in two minutes. If it is not: ask the coordinator whether "
            "this hospital is still enrolled, with this key."
        )
        yield Finding("SuperNode", "wrong", said, step, 5)
    elif let_in >= 0:
        yield Finding("SuperNode", "ok", "the coordinator let this node in when it last asked")


def _tail(log: Path) -> bytes:
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES), os.SEEK_SET)
        return file.read()
