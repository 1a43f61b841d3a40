"""Flower's own command line, asked for JSON: what enrols nodes, submits runs and lists both.

In process isolation the SuperLink is another program, so this is the public way to it. It runs on
the coordinator's machine, against the loopback interface that hospitals cannot reach.
"""

import json
import os
import subprocess
from typing import Any

from metaward.errors import FederationError
from metaward.flower_programs import SCRIPTS, flower_environment
from metaward_server.coordinator.home import Coordinator
from metaward_server.coordinator.processes import CONNECTION

TIMEOUT_S = 60.0


def ask_flower(
    coordinator: Coordinator, *arguments: str, **options: str
) -> dict[str, Any]:  # Any: Flower's JSON
    """Run `flwr ARGUMENTS --OPTION VALUE` on this coordinator's SuperLink and return its JSON.

    Raises:
        FederationError: Flower said no, or said nothing that can be read.
    """
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    command = [str(SCRIPTS / "flwr"), *arguments, CONNECTION, *named, "--format", "json"]
    try:
        done = subprocess.run(  # noqa: S603 (our own commands)
            command,
            env=os.environ | flower_environment(coordinator.flower_home),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _no_answer(arguments, f"no answer in {TIMEOUT_S:.0f} s") from None
    start = done.stdout.find("{")
    try:
        answer = json.loads(done.stdout[start:]) if start >= 0 else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not answer.get("success", False):
        said = answer.get("error-message", "") if isinstance(answer, dict) else done.stderr
        raise _no_answer(arguments, (str(said).strip().splitlines() or ["no reason given"])[-1])
    return answer


def _no_answer(arguments: tuple[str, ...], said: str) -> FederationError:
    return FederationError(
        f"the SuperLink did not do this: flwr {' '.join(arguments[:2])} ({said})",
        expected="a SuperLink that runs",
        where="this machine",
        next_step="metaward server start; then look at log/superlink.log.",
    )
