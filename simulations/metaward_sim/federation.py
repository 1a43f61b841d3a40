"""Run a study over the hospitals of this machine, on the grid that is asked for."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from metaward.arrays import Arrays
from metaward.device import ON_CPU
from metaward.errors import ConfigError
from metaward.progress import RoundEvent
from metaward.services import only_one
from metaward.study import Study
from metaward.workers import WorkerPool, available_cores
from metaward_client.app import DEVICE_KEY, POLICY_KEY, ROUND_LOG_KEY, SIMULATED_KEY, SITE_KEY
from metaward_client.site import load_site
from metaward_server.study_run import run_study
from metaward_sim.in_process_grid import InProcessGrid

GridName: TypeAlias = Literal["in-process", "ray"]

CLIENT_APP = "metaward_client.app:app"
NOISE_ONLY_APP = "metaward_sim.noise_only_app:app"
PRELOADED = ("torch", "metaward_client.app", "metaward_client.site")
"""What the workers have imported when they start."""

SITES_FOLDER = "sites"
FLOWER_LOG = "flower.log"
LOGGERS = ("flwr", "metaward_server", "metaward_client", "metaward_sim")


def run_federation(
    study: Study,
    sites: Sequence[Path],
    run_dir: Path,
    *,
    policies: Mapping[str, Path] | None = None,
    noise_only: bool = False,
    grid: GridName = "in-process",
    workers: int | None = None,
    device: str = ON_CPU,
    resume: bool = False,
    on_round: Callable[[RoundEvent], None] = lambda _: None,
    start: Path | None = None,
) -> Arrays:
    """Run the study and return the final theta.

    Each site's own log of rounds (loss, norm, seconds) goes to ``run_dir/sites/<name>.jsonl``; the
    log of Flower and of the coordinator to ``run_dir/flower.log``; nothing is printed.

    Args:
        study: What is run.
        sites: The sites that take part, one ``site.yaml`` or site folder each.
        run_dir: Gets ``rounds.jsonl``, ``checkpoints/``, ``sites/`` and ``flower.log``.
        policies: Each site's policy file, by name; left out, what its own ``site.yaml`` says.
        noise_only: Run the control: the sites' patients stay out, their noise does not.
        grid: ``in-process`` (worker processes of this machine) or ``ray`` (Flower's engine).
        workers: Processes that compute; by default one per core.
        device: Where they do, in the place of what each site.yaml says.
        resume: Go on from the newest checkpoint, to the same bits.
        on_round: Called when a round is closed and on disk.
        start: The model artefact that the study begins from, where it names one.

    Raises:
        ConfigError: No site, two sites of one name, nothing to resume, Ray is not installed, or
            another process is at this run.
        FederationError: The sites did not give what the study needs.
    """
    node_configs = _node_configs(sites, run_dir, policies or {}, device)
    client_app = NOISE_ONLY_APP if noise_only else CLIENT_APP
    n_workers = min(workers or available_cores(), len(sites))
    run_dir.mkdir(parents=True, exist_ok=True)
    with only_one(run_dir, "this run"), flower_log(run_dir / FLOWER_LOG):
        match grid:
            case "in-process":
                with WorkerPool(n_workers, preload=PRELOADED) as pool:
                    return run_study(
                        InProcessGrid(client_app, node_configs, pool),
                        study,
                        run_dir,
                        n_nodes=len(sites),
                        resume=resume,
                        on_round=on_round,
                        start=start,
                    )
            case "ray":
                from metaward_sim.ray_grid import run_on_ray

                return run_on_ray(
                    lambda ray_grid: run_study(
                        ray_grid,
                        study,
                        run_dir,
                        n_nodes=len(sites),
                        resume=resume,
                        on_round=on_round,
                        start=start,
                    ),
                    node_configs,
                    n_workers=n_workers,
                    noise_only=noise_only,
                )


def _node_configs(
    sites: Sequence[Path], run_dir: Path, policies: Mapping[str, Path], device: str
) -> list[dict[str, bool | float | int | str]]:
    """Return the settings of each site's node; a name makes a log file and a random stream."""
    if not sites:
        raise ConfigError("no site", expected="at least one", next_step="Name the sites' folders.")
    names = [load_site(site).name for site in sites]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"two sites of the name {', '.join(twice)}",
            expected="a name of its own for each site",
            next_step="Change `name` in one of the two site.yaml files.",
        )
    configs: list[dict[str, bool | float | int | str]] = []
    for site, name in zip(sites, names, strict=True):
        log = run_dir / SITES_FOLDER / f"{name}.jsonl"
        configs.append(
            {
                SITE_KEY: str(site.absolute()),
                ROUND_LOG_KEY: str(log.absolute()),
                SIMULATED_KEY: True,
                DEVICE_KEY: device,
            }
        )
        if name in policies:
            configs[-1][POLICY_KEY] = str(policies[name].absolute())
    return configs


@contextlib.contextmanager
def flower_log(path: Path) -> Iterator[None]:
    """Send what Flower and the coordinator log to a file, and nothing to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
