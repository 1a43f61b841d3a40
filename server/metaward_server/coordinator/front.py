"""What hospitals meet: the proxy's TLS on the public port, and the SuperLink behind it."""

import http.client
import socket
import ssl

from metaward.certificate_file import trusting
from metaward.health import DEADLINE_S, LOOPBACK, NOT_BEHIND, PULL_PATH, Answer, ask_health
from metaward_server.coordinator.home import Coordinator

ANY_ADDRESS = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 (nothing is bound here)


def answers_of(coordinator: Coordinator) -> list[Answer]:
    """Ask the SuperLink's health server, and the proxy on the port that hospitals reach."""
    return [
        ask_health("SuperLink", coordinator.settings.health_port),
        ask_proxy(coordinator),
    ]


def ask_proxy(coordinator: Coordinator, *, deadline_s: float = DEADLINE_S) -> Answer:
    """Greet the proxy as a hospital does, and send one empty request to the SuperLink behind it.

    Over TLS with the federation's authority and the public name; from this machine, so a firewall
    on the way is not seen.

    Args:
        coordinator: Whose proxy it is.
        deadline_s: Seconds for each of connection, greeting and answer.

    Raises:
        ConfigError: The authority's certificate is damaged.
    """
    settings = coordinator.settings
    host, port = settings.bound_place
    context = trusting(coordinator.ca_certificate)
    try:
        with (
            socket.create_connection((ANY_ADDRESS.get(host, host), port), deadline_s) as plain,
            context.wrap_socket(plain, server_hostname=settings.host) as greeted,
        ):
            status = _ask(greeted, settings.host)
    except ssl.SSLCertVerificationError as error:
        said = f"its certificate is not accepted ({error.verify_message})"
        return Answer("proxy", False, said)
    except (OSError, http.client.HTTPException) as error:
        return Answer("proxy", False, f"no answer at {settings.bound} ({type(error).__name__})")
    if status in NOT_BEHIND:
        return Answer("proxy", False, f"no SuperLink behind it (HTTP {status})")
    return Answer("proxy", True, f"TLS at {settings.bound}")


def _ask(greeted: ssl.SSLSocket, host: str) -> int:
    connection = http.client.HTTPConnection(host)
    connection.sock = greeted
    connection.request("POST", PULL_PATH, body=b"")
    return connection.getresponse().status
