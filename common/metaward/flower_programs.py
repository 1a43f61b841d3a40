"""Flower's own programs: where they are, and an environment in which they contact nobody else."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
"""Where Flower's programs are: beside the Python that runs this."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1")
TASK_POLL_S = "0.2"
"""Pause between two looks for work of the process that starts a study's or a round's."""


def flower_environment(home: Path, *, before: Path | None = None) -> dict[str, str]:
    """Return what Flower's programs need, to be added to this process's environment.

    Args:
        home: A folder for Flower's own files.
        before: A folder with programs that come before Flower's.
    """
    folders = [*([str(before)] if before else []), str(SCRIPTS), os.environ.get("PATH", "")]
    return around_the_proxy(os.environ) | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": TASK_POLL_S,
        "PATH": os.pathsep.join(folders),
    }


def around_the_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what keeps processes of one machine from speaking to each other through a proxy.

    >>> around_the_proxy({"http_proxy": "proxy:3128", "no_proxy": "pacs.example"})["no_proxy"]
    'pacs.example,localhost,127.0.0.1'
    """
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    named = ",".join(filter(None, [given, *LOOPBACK_NAMES]))
    return {"no_proxy": named, "NO_PROXY": named}
