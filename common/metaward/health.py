"""Whether a process of Flower answers, asked through gRPC's health protocol with a deadline.

Flower's SuperLink and SuperNode start a server of that protocol where they are told to, and say
SERVING under whatever name they are asked; so the empty name is asked, which means all of it.
SERVING says that the process is alive and not stuck; not that anybody reaches it.
"""

import errno
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Annotated

import typer

from metaward.errors import ConfigError, FederationError

LOOPBACK = "127.0.0.1"
DEADLINE_S = 5.0
"""For one question. Who is well answers in milliseconds; an engine that asks waits 10 to 30 s."""
PAUSE_S = 0.5
PULL_PATH = "/v1/fleet/pull-messages"
"""Where nodes ask for work: whoever answers an empty request there has a SuperLink behind it."""
NOT_BEHIND = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""What a proxy says of that path when no SuperLink answers it."""
Wait = Annotated[
    float, typer.Option("--wait", min=0, help="Ask again until it serves, for so many seconds.")
]
"""The option of the commands that ask for health."""


@dataclass(frozen=True)
class Answer:
    """What one process said.

    Attributes:
        name: Of the process, for people.
        healthy: True where it said that it serves.
        said: What it said, or why there is no answer; one clause.
    """

    name: str
    healthy: bool
    said: str


def ask_health(name: str, port: int, *, deadline_s: float = DEADLINE_S) -> Answer:
    """Ask the health server of a process on this machine.

    Args:
        name: For the answer.
        port: On loopback.
        deadline_s: Seconds until there is no answer.
    """
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    address = f"{LOOPBACK}:{port}"
    # a proxy on the way out (https_proxy) is not the way to this machine
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            found = HealthStub(channel).Check(HealthCheckRequest(), timeout=deadline_s)
        except grpc.RpcError as error:
            code = error.code().name.lower().replace("_", " ")
            return Answer(name, False, f"no answer at {address} ({code})")
    status = HealthCheckResponse.ServingStatus.Name(found.status)
    serves = found.status == HealthCheckResponse.SERVING
    return Answer(name, serves, f"{status} at {address}")


def ask_until_healthy(
    ask: Callable[[], list[Answer]], *, wait_s: float, pause_s: float = PAUSE_S
) -> list[Answer]:
    """Ask, and ask again until all serve.

    Args:
        ask: Gives the answers of all processes.
        wait_s: Seconds after which nobody is asked again; 0 asks once, as does NaN.
        pause_s: Seconds between two questions.
    """
    end = time.monotonic() + wait_s
    while True:
        answers = ask()
        in_time = time.monotonic() + pause_s <= end
        if all(answer.healthy for answer in answers) or not in_time:
            return answers
        time.sleep(pause_s)


def show_answers(answers: Sequence[Answer], *, as_json: bool) -> None:
    """Print one JSON object; or, where all serve, one line."""
    healthy = all(answer.healthy for answer in answers)
    if as_json:
        content = {"healthy": healthy, "answers": [asdict(answer) for answer in answers]}
        typer.echo(json.dumps(content, indent=2))
    elif healthy:
        typer.echo(", ".join(f"{answer.name}: {answer.said}" for answer in answers))


def require_healthy(answers: Sequence[Answer], *, where: str, next_step: str) -> None:
    """Raise where one of them does not serve.

    Raises:
        FederationError: It names all that do not, and what they said.
    """
    ill = [answer for answer in answers if not answer.healthy]
    if ill:
        raise FederationError(
            ", ".join(f"{answer.name}: {answer.said}" for answer in ill),
            expected="an answer that it serves",
            where=where,
            next_step=next_step,
        )


def require_free(port: int, *, key: str, where: str, host: str = LOOPBACK) -> None:
    """Look whether a server can be started on a port of this machine.

    Raises:
        ConfigError: Somebody listens there: the process would end again and again, and who asks
            for its health would hear another's. Or the address is not this machine's.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        said = "another process has that port" if taken else f"it cannot be bound ({error})"
        raise ConfigError(
            f"{key} {port}: {said}",
            expected="a port of this machine that nobody uses",
            where=where,
            next_step=f"End the other process, or set another `{key}`.",
        ) from None
