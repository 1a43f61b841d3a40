"""Answers Prometheus for a coordinator.

    python -m metaward_server.coordinator.metrics_server FOLDER

A process of its own: whatever happens to it, rounds go on.
"""

import sys
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from metaward_server.coordinator.home import Coordinator, MetricsSettings, read_coordinator
from metaward_server.coordinator.metrics import CoordinatorCollector


def serve(coordinator: Coordinator, settings: MetricsSettings) -> tuple[WSGIServer, Thread]:
    """Answer `GET /metrics` from a thread; each answer is made when it is asked for."""
    registry = CollectorRegistry()  # one of our own: Python's own figures are not asked for
    registry.register(CoordinatorCollector(coordinator))
    return start_http_server(settings.port, settings.host, registry)


def main() -> None:
    """Answer until the process is ended."""
    coordinator = read_coordinator(Path(sys.argv[1]))
    _, thread = serve(coordinator, coordinator.settings.metrics or MetricsSettings())
    thread.join()


if __name__ == "__main__":
    main()
