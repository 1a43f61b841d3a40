"""The processes of a node: Flower's SuperNode, what runs its rounds, and what starts them fast.

Connections go out only: the SuperNode asks the coordinator for work, and what listens here listens
on loopback, with a secret. Where the coordinator is away the SuperNode waits and asks again; where
it ends (after a kill it may have to, until the coordinator has noticed) it is started again.
"""

import json
import os
import socket
import sys
from pathlib import Path

from metaward.health import LOOPBACK
from metaward.services import Service, around_the_proxy
from metaward.workers import KEEP_MEMORY
from metaward_client.node.node_folder import NodeFolder, read_kit
from metaward_client.node.vetted_app import write_command

SCRIPTS = Path(sys.executable).parent
"""Where Flower's programs are: beside the Python that runs this."""


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
    environment = (
        KEEP_MEMORY
        | around_the_proxy(os.environ)
        | {
            "FLWR_HOME": str(node.path / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "PATH": os.pathsep.join([str(programs), str(SCRIPTS), os.environ.get("PATH", "")]),
        }
    )
    settings = {
        "site": str(site.absolute()),
        "round-log": str(node.round_log),
        "approvals": str(node.approvals),
        "proposals": str(node.proposals),
    }
    supernode = [
        str(SCRIPTS / "flower-supernode"),
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
