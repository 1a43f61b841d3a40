"""The processes of a node: Flower's SuperNode, what runs its rounds, and what starts them fast.

Connections go out only: the SuperNode asks the coordinator for work, and what listens here listens
on loopback, with a secret. Where the coordinator is away the SuperNode waits and asks again; where
it ends (after a kill it may have to, until the coordinator has noticed) it is started again.
"""

import json
import socket
import sys
from pathlib import Path

from metaward.flower_programs import SCRIPTS, flower_environment
from metaward.health import LOOPBACK
from metaward.services import Service
from metaward.worker_process import KEEP_MEMORY
from metaward_client.node.node_folder import NodeFolder, read_kit
from metaward_client.node.vetted_app import ROUND_LOG, write_command


def services_of(node: NodeFolder, site: Path, sockets: Path, *, health_port: int) -> list[Service]:
    """Return the processes in the order in which they start.

    Args:
        node: With a kit.
        site: The site's folder or `site.yaml`.
        sockets: A private folder with a short path, since that of a socket has at most 107 bytes.
        health_port: Where the SuperNode's health server listens, on loopback.
    """
    port = _free_port()
    programs = node.path / "bin"
    warm_socket = sockets / "warm"
    write_command(programs, warm_socket)
    environment = KEEP_MEMORY | flower_environment(node.path / "flower", before=programs)
    environment[ROUND_LOG] = str(node.round_log)
    settings = {
        "site": str(site.absolute()),
        "round-log": str(node.round_log),
        "approvals": str(node.approvals),
        "proposals": str(node.proposals),
    }
    supernode = [
        *(sys.executable, "-m", "metaward_client.node.supernode"),
        *("--superlink", read_kit(node).address),
        *("--root-certificates", str(node.ca_certificate)),
        *("--auth-supernode-private-key", str(node.key)),
        *("--host", LOOPBACK, "--port", str(port)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(node.secret)),
        *("--health-server-address", f"{LOOPBACK}:{health_port}"),
        *("--node-config", " ".join(f"{k}={json.dumps(v)}" for k, v in settings.items())),
    ]
    rounds = [
        str(SCRIPTS / "flower-superexec"),
        *("--runtime-api-address", f"{LOOPBACK}:{port}"),
        "--insecure",  # loopback; the secret says who may take work
        *("--superexec-auth-secret-file", str(node.secret)),
    ]
    warm = [sys.executable, "-m", "metaward_client.node.warm_start", str(warm_socket)]
    return [
        Service("warm start", warm, environment, node.log / "warm.log"),
        Service("SuperNode", supernode, environment, node.log / "supernode.log"),
        Service(
            "rounds",
            rounds,
            environment,
            node.log / "rounds.log",
            ready=lambda: _listens(port),
        ),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 0.5).close()
    except OSError:
        return False
    return True
