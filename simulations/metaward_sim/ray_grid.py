"""The same two apps on Flower's simulation engine, which runs on Ray.

The engine is entered through ``flwr.simulation.run_simulation``: deprecated in Flower 1.41 in
favour of the ``flwr run`` command, which would leave a SuperLink running in the background, need a
bundle on disk and give no way to follow the rounds (see docs/design/0001).
"""

import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from metaward.arrays import Arrays
from metaward.errors import ConfigError, FederationError
from metaward.worker_process import ONE_THREAD, environment

NOTHING_LEAVES_THE_MACHINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
AS_LATER_RAY = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Later Ray's default; without it Ray prints a warning about it on the terminal."""

PARTITION_KEY = "partition-id"
"""Flower's engine numbers its nodes 0..N-1 under this key of the node's settings."""


def run_on_ray(
    play: Callable[[Grid], Arrays],
    node_configs: Sequence[UserConfig],
    *,
    n_workers: int,
    noise_only: bool = False,
) -> Arrays:
    """Play a study on Flower's Ray engine and return what ``play`` returns.

    Args:
        play: Runs the study on the grid it is given, in a thread of this process.
        node_configs: Settings of the nodes, as the site's ClientApp reads them.
        n_workers: Ray actors, one core each.
        noise_only: The sites' patients stay out, their noise does not.

    Raises:
        ConfigError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "Ray is not installed",
            expected="the extra 'ray'",
            where="--grid ray",
            next_step="Run `pip install 'metaward[ray]'`, or leave out --grid.",
        )
    silence_telemetry()
    from flwr.simulation import run_simulation

    outcome: list[Arrays] = []
    stopped = threading.Event()
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        outcome.append(play(_stoppable(grid, stopped)))

    with environment(ONE_THREAD | AS_LATER_RAY):
        try:
            run_simulation(
                server_app=server_app,
                client_app=client_app_of(node_configs, noise_only=noise_only),
                num_supernodes=len(node_configs),
                backend_config=_backend_config(n_workers),
            )
        finally:
            stopped.set()
    return outcome[0]


def _stoppable(grid: Grid, stopped: threading.Event) -> Grid:
    """Let the engine's wait for replies end when the main thread has ended (Ctrl-C).

    Otherwise the study's thread would wait for its deadline, and the process with it.
    """
    pull = grid.pull_messages

    def pull_unless_stopped(message_ids: Iterable[str]) -> Iterable[Message]:
        if stopped.is_set():
            raise FederationError("the study was stopped")
        return pull(message_ids)

    # The engine makes the grid; there is no place to hand it a subclass.
    grid.pull_messages = pull_unless_stopped  # type: ignore[method-assign]
    return grid


def silence_telemetry() -> None:
    """Switch off what Flower and Ray would send; works also when Flower is imported already."""
    os.environ.update(NOTHING_LEAVES_THE_MACHINE)
    telemetry = sys.modules.get("flwr.supercore.telemetry")
    if telemetry is not None:  # it read the environment when it was imported
        telemetry.FLWR_TELEMETRY_ENABLED = "0"  # type: ignore[attr-defined]


def client_app_of(node_configs: Sequence[UserConfig], *, noise_only: bool = False) -> ClientApp:
    """Return a ClientApp that gives partition ``i`` the settings of node ``i``.

    The engine sets no node settings of our own, so the app carries them to the Ray actors.
    """
    app = ClientApp()
    configs = [dict(config) for config in node_configs]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from metaward_client.app import open_site
        from metaward_client.site_work import SiteAtWork, answer_message
        from metaward_sim.noise_only_app import without_patients

        def site() -> SiteAtWork:
            opened = open_site(configs[int(context.node_config[PARTITION_KEY])])
            return without_patients(opened) if noise_only else opened

        return answer_message(message, site)

    return app


def _backend_config(n_workers: int) -> dict[str, Any]:
    # `Any`: Flower passes this mapping on to ray.init and to the actors' options.
    return {
        "init_args": {
            "num_cpus": n_workers,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        },
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
