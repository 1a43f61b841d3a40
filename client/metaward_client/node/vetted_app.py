"""`flwr-clientapp` as a hospital runs it: with the code that it has installed, and no other.

A coordinator sends a bundle with every run, and Flower puts what is in it first on Python's path:
whoever sends a module of a known name has its code run. The bundle of a metaward release holds
references and no code. So a bundle with any other SHA-256 is refused here, before one file of it
is written. Flower's own vetting needs its hub; this needs the release on the hospital's disk.
"""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from metaward.bundle import bundle, digest_of
from metaward.errors import FederationError
from metaward_client import round_log

logger = logging.getLogger(__name__)

COMMAND = "flwr-clientapp"
"""Name of the program that Flower starts for each message."""
ROUND_LOG = "METAWARD_ROUND_LOG"
"""Environment variable with the path of the site's log of orders."""


def refuse_other_code(content: bytes) -> None:
    """Check that a bundle is this release's own.

    Raises:
        FederationError: It is another one. The text may reach the coordinator.
    """
    if digest_of(content) != digest_of(bundle()):
        raise FederationError(
            "other code than this hospital has installed",
            expected="the bundle of this hospital's release of metaward",
            next_step="Run the study with the same release.",
        )


def install_bundle(
    install: Callable[..., Path], content: bytes, *args: Any, **options: Any
) -> Path:  # Any: Flower's own
    """Install this release's bundle, and no other.

    Raises:
        FederationError: It is another one, which the site's log of orders gets a line of, or it
            cannot be installed. Flower sends the text to the coordinator, so it holds none of the
            operating system's, which names paths.
    """
    try:
        refuse_other_code(content)
    except FederationError as error:
        _note(error)
        raise
    try:
        return install(content, *args, **options)
    except Exception:
        logger.exception("the bundle cannot be installed")
    raise FederationError("the bundle cannot be installed; the hospital's own log says why")


def _note(refusal: FederationError) -> None:
    """Give the order its line: it ends here, before the site's own code is asked."""
    if path := os.environ.get(ROUND_LOG):
        line = {"outcome": "other release", "reason": str(refusal)}
        round_log.append(Path(path), round_log.new_line() | line)


def main() -> None:
    """Do what `flwr-clientapp` does, once the bundle is known."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    runtime = import_module("flwr.supernode.runtime.run_clientapp")
    install = runtime.install_from_fab  # no such name: an unknown Flower, and we stop

    def install_vetted(content: bytes, *args: Any, **options: Any) -> Path:  # Any: Flower's own
        return install_bundle(install, content, *args, **options)

    runtime.install_from_fab = install_vetted  # type: ignore[attr-defined]
    flwr_clientapp()


PROGRAM = """\
#!{python} -IS
# Written by `metaward site start`; see metaward_client.node.warm_start.
import json, os, socket, sys
warm = socket.socket(socket.AF_UNIX)
try:
    warm.connect({socket!r})
except OSError:
    os.execv({python!r}, [{python!r}, "-m", "metaward_client.node.vetted_app", *sys.argv[1:]])
with warm.makefile("rw") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
    stream.flush()
    sys.exit(int(stream.readline() or 1))
"""


def write_command(folder: Path, warm_socket: Path) -> None:
    """Write the program that stands before Flower's own of that name on the node's PATH."""
    program = folder / COMMAND
    text = PROGRAM.format(python=sys.executable, socket=str(warm_socket))
    program.write_text(text, encoding="utf-8")
    program.chmod(0o700)


if __name__ == "__main__":
    main()
