"""A study in its run directory: begin or resume, play the rounds, give the final theta."""

from collections.abc import Callable
from pathlib import Path

from flwr.serverapp import Grid

from metaward.arrays import Arrays, to_arrays
from metaward.errors import ConfigError, FederationError
from metaward.meta.compose import initial_parameters
from metaward.progress import RoundEvent
from metaward.run_directory import RunDirectory
from metaward.start_model import begun_from
from metaward.study import Study
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.outer_optimizers import initial_state
from metaward_server.rounds_log import RoundsLog
from metaward_server.strategy import MetaStrategy, StudyRecord

CHECKPOINTS_FOLDER = "checkpoints"
ROUNDS_FILE = "rounds.jsonl"


def run_study(
    grid: Grid,
    study: Study,
    run_dir: Path,
    *,
    n_nodes: int,
    resume: bool,
    on_round: Callable[[RoundEvent], None],
    start: Path | None = None,
) -> Arrays:
    """Play the study's rounds on a grid and return the final theta.

    A resumed study continues to the same bits as one that was never interrupted.

    Args:
        grid: Where the sites are.
        study: What is run.
        run_dir: Gets ``rounds.jsonl`` and ``checkpoints/``.
        n_nodes: Nodes to wait for before the first round.
        resume: Go on from the newest whole checkpoint in ``run_dir``.
        on_round: Called when a round is closed and on disk.
        start: The model artefact that the study begins from, where it names one.

    Raises:
        ConfigError: ``resume`` without a checkpoint of this very study, or a start in a folder that
            holds one; or the model that it begins from is missing or another.
        FederationError: The sites did not give what the study needs, in too many rounds in a row
            or in none at all; or what was written of a resumed study cannot be read.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    store = CheckpointStore(run_dir / CHECKPOINTS_FOLDER, study.digest())
    rounds = RoundsLog(run_dir / ROUNDS_FILE)
    progress = store.load_newest() if resume else _first_progress(study, store, start)
    rounds.cut_from(progress.next_round)
    strategy = MetaStrategy(study, StudyRecord(store, rounds, on_round), n_nodes=n_nodes)
    strategy.summary()
    theta = strategy.start(grid, progress).theta
    _require_a_round_that_counted(study, run_dir)
    return theta


def _require_a_round_that_counted(study: Study, run_dir: Path) -> None:
    """Refuse to call untrained parameters the result of a study."""
    void = sum(event.void for event in RunDirectory(run_dir).read_rounds())
    if void < study.rounds:
        return
    raise FederationError(
        f"all rounds were void: {void}",
        expected=f"a round with at least {study.least_updates()} admitted updates",
        where=f"study {study.name}",
        next_step="Look at the sites' own logs for the reason, then run the study anew: a round is "
        "not played again.",
    )


def _first_progress(study: Study, store: CheckpointStore, start: Path | None) -> Progress:
    if not store.is_empty():
        raise ConfigError(
            "the checkpoints of an earlier run",
            expected="a run directory without checkpoints",
            where=str(store.folder),
            next_step="Resume that run with --resume, or use another run directory.",
        )
    theta = dict(sorted(first_theta(study, start).items()))
    progress = Progress(0, theta, initial_state(study.outer, theta))
    store.save(progress)
    return progress


def first_theta(study: Study, start: Path | None) -> Arrays:
    """Return the meta-parameters before round 0.

    Args:
        study: What is run.
        start: The model artefact that it begins from, where it names one.

    Raises:
        ConfigError: It names one and ``start`` is not that one.
    """
    untrained = initial_theta(study)
    if not study.start_sha256:
        return untrained
    if start is None:
        raise ConfigError(
            f"a study that begins from a model ({study.start_sha256[:12]}…), and no such model",
            expected="the folder of that model",
            where=f"study {study.name}",
            next_step="Name it with --start.",
        )
    return begun_from(study, untrained, start)


def initial_theta(study: Study) -> Arrays:
    """Return untrained meta-parameters; a function of the study alone."""
    return to_arrays(initial_parameters(study.model, study.learner, study.seed))
