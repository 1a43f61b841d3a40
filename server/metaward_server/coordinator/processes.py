"""The coordinator's processes: SuperLink, proxy, and the one that runs studies."""

import json
import shlex
import socket
import ssl
import sys
from importlib.util import find_spec

from metaward.errors import ConfigError
from metaward.flower_programs import SCRIPTS, flower_environment
from metaward.health import LOOPBACK, require_free
from metaward.services import Service
from metaward_server.coordinator.home import COORDINATOR_FILE, Coordinator
from metaward_server.coordinator.proxy import find_nginx, write_proxy_config

CONNECTION = "coordinator"
"""Name of the SuperLink in Flower's own configuration."""
CONNECT_TIMEOUT_S = 0.5


def services_of(coordinator: Coordinator) -> list[Service]:
    """Return the processes in the order in which they start.

    Studies run in a process of their own ("process isolation"), so that a SuperLink that is killed
    and started again finds them alive; a shared secret keeps others from taking its work.
    """
    environment = flower_environment(coordinator.flower_home)
    log = coordinator.folder / "log"
    superlink = [
        str(SCRIPTS / "flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(coordinator.settings.superlink_port)),
        *("--ssl-ca-certfile", str(coordinator.ca_certificate)),
        *("--ssl-certfile", str(coordinator.certificate)),
        *("--ssl-keyfile", str(coordinator.key)),
        "--enable-supernode-auth",
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(coordinator.secret)),
        *("--database", str(coordinator.database)),
        *("--health-server-address", f"{LOOPBACK}:{coordinator.settings.health_port}"),
        "--disable-runtime-dependency-installation",
    ]
    superexec = [
        str(SCRIPTS / "flower-superexec"),
        *("--runtime-api-address", f"localhost:{coordinator.settings.superlink_port}"),
        *("--root-certificates", str(coordinator.ca_certificate)),
        *("--superexec-auth-secret-file", str(coordinator.secret)),
    ]
    nginx = [find_nginx(), "-e", "stderr", "-c", str(write_proxy_config(coordinator))]
    keeper = [sys.executable, "-m", "metaward_server.coordinator.keeper", str(coordinator.folder)]
    services = [
        Service("SuperLink", superlink, environment, log / "superlink.log"),
        Service(
            "studies",
            superexec,
            environment,
            log / "studies.log",
            ready=lambda: is_up(coordinator),
        ),
        Service("proxy", nginx, {}, log / "proxy.log"),
        Service(
            "keeper", keeper, environment, log / "keeper.log", ready=lambda: is_up(coordinator)
        ),
    ]
    if coordinator.settings.metrics is not None:
        module = "metaward_server.coordinator.metrics_server"
        metrics = [sys.executable, "-m", module, str(coordinator.folder)]
        services.append(Service("metrics", metrics, environment, log / "metrics.log"))
    return services


def require_startable(coordinator: Coordinator) -> None:
    """Look at what would make a process end again and again.

    Raises:
        ConfigError: Certificate and key are no pair, another process has a port of ours, or the
            extra `metrics` is not installed.
    """
    _require_pair(coordinator)
    settings, where = coordinator.settings, str(coordinator.folder / COORDINATOR_FILE)
    for key, (host, port) in settings.places():
        require_free(port, key=key, where=where, host=host)
    if settings.metrics is not None and find_spec("prometheus_client") is None:
        raise ConfigError(
            "`metrics` is set, but prometheus-client is not installed",
            expected="the extra that Prometheus needs",
            where=where,
            next_step="pip install 'metaward[metrics]', or take `metrics` out.",
        )


def _require_pair(coordinator: Coordinator) -> None:
    """Check that the key is the certificate's: a renewal may have been killed between the two."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(coordinator.certificate, coordinator.key, password="")
    except ssl.SSLError:
        raise ConfigError(
            f"no key of the certificate {coordinator.certificate}",
            expected="the two that `metaward server renew` wrote together",
            where=str(coordinator.key),
            next_step=f"metaward server renew {shlex.quote(str(coordinator.folder))}",
        ) from None


def is_up(coordinator: Coordinator) -> bool:
    """Return whether the SuperLink takes connections."""
    try:
        address = ("127.0.0.1", coordinator.settings.superlink_port)
        socket.create_connection(address, CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def write_connection(coordinator: Coordinator) -> None:
    """Write where the SuperLink is for Flower's own command line."""
    text = (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "localhost:{coordinator.settings.superlink_port}"\n'
        f"root-certificates = {json.dumps(str(coordinator.ca_certificate))}\n"  # as TOML's
    )
    (coordinator.flower_home / "config.toml").write_text(text, encoding="utf-8")
