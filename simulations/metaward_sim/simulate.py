"""A simulation from hospitals to report: write or find, read, meta-train, compare, measure.

Training leaves checkpoints in the run directory, so that a run which was killed goes on from
there with ``--resume`` and gives the same model and the same scores.
"""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType

from metaward.config import validate_settings
from metaward.device import device_of
from metaward.episode_scores import Method
from metaward.errors import ConfigError, MetawardError
from metaward.evaluation import SiteEvaluation, evaluate_site
from metaward.evaluation_design import design_for
from metaward.model_artefact import load_card
from metaward.progress import RoundEvent
from metaward.provenance import commit, versions
from metaward.report.html import write_report_html
from metaward.report.schema import Report, write_report_json
from metaward.run_directory import RunDirectory, model_folder
from metaward.start_model import keep_start, read_start
from metaward.tasks import Task
from metaward.workers import WorkerPool, available_cores
from metaward_sim.federation import PRELOADED
from metaward_sim.hospitals_of_run import (
    Hospitals,
    draw_hospitals,
    find_hospitals,
    read_tasks,
    refuse_shared_patients,
    refuse_unfit_sites,
)
from metaward_sim.live_view import LiveView
from metaward_sim.privacy_of_run import policies_of
from metaward_sim.report_of_run import report_of_run
from metaward_sim.scenario import Scenario
from metaward_sim.tensorboard_log import TensorBoardLog
from metaward_sim.training import Trainer

TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class Simulation:
    """One run: what is simulated, and where its files go.

    Attributes:
        fresh: The run directory was made for this run and holds nothing from before.
    """

    scenario: Scenario
    run: RunDirectory
    command: str
    tensorboard: bool = False
    fresh: bool = False

    @property
    def workers(self) -> int:
        """Worker processes."""
        return self.scenario.workers or available_cores()


def begin(scenario: Scenario, out: Path, *, command: str, tensorboard: bool) -> Simulation:
    """Make the run directory and write the resolved scenario into it.

    Raises:
        ConfigError: ``out`` is not an empty or a new folder, or the scenario cannot begin from its
            ``start``.
    """
    start = None
    if scenario.start is not None:
        start = read_start(model_folder(scenario.start), scenario.study())
        scenario = scenario.model_copy(update={"start_sha256": start.card.parameters_sha256})
    run = RunDirectory.create(out)
    if start is not None:
        keep_start(start, run.path)
    content = {
        "command": command,
        "commit": commit(),
        "versions": versions(),
        "tensorboard": tensorboard,
        "scenario": scenario.model_dump(mode="json"),
    }
    run.write_config(content)
    return Simulation(scenario, run, command, tensorboard, fresh=True)


def reopen(out: Path) -> Simulation:
    """Open a run that was interrupted.

    Raises:
        ConfigError: The folder is no run directory, or its config.yaml was damaged.
    """
    run = RunDirectory.open(out)
    content = run.read_config()
    settings = content.get("scenario")
    if not isinstance(settings, dict):
        raise ConfigError(
            "no scenario in it",
            expected="the config.yaml that `metaward simulate` wrote",
            where=str(run.config),
            next_step="Name the folder of an interrupted simulation.",
        )
    scenario = validate_settings(settings, Scenario, where=f"{run.config}, scenario")
    return Simulation(
        scenario, run, str(content.get("command", "")), content.get("tensorboard") is True
    )


def simulate(simulation: Simulation, view: LiveView) -> Report:
    """Run a simulation to its report, from wherever it stands.

    Where the hospitals cannot be used, a fresh run directory is taken away again, so that the
    corrected command may use the same folder.

    Raises:
        ConfigError: The hospitals cannot be found or split as asked.
        DataError: A hospital's data cannot be used.
        FederationError: The federation could not do its work.
    """
    scenario, run = simulation.scenario, simulation.run
    started = datetime.now(UTC)
    with ExitStack() as stack:
        false_start = stack.enter_context(ExitStack())  # first in, so that it closes last
        if simulation.fresh:
            false_start.push(partial(_take_away_after_a_mistake, run))
        board = None
        if simulation.tensorboard:
            board = stack.enter_context(TensorBoardLog(run.path / TENSORBOARD_FOLDER))
        stack.enter_context(view)
        hospitals, tasks = _prepare(simulation, view)
        false_start.pop_all()

        def on_round(name: str, event: RoundEvent, loss: float | None) -> None:
            if board is not None:
                board.on_round(event, run=name, loss=loss)

        trainer = Trainer(
            scenario, run, hospitals.training, tasks, simulation.workers, view, on_round
        )
        method, rounds = trainer.train_method()
        run.write_privacy(trainer.privacy())
        baselines = [trainer.baseline(name) for name in scenario.baselines.methods]
        evaluations = _evaluate(simulation, hospitals, tasks, (method, *baselines), view)
        view.phase("Drawing the report")
        report = report_of_run(
            scenario,
            hospitals,
            tasks,
            evaluations,
            rounds,
            card=load_card(run.model),
            command=simulation.command,
            started=started,
            wall_seconds=view.wall_seconds,
        )
        write_report_json(report, run.report_json)
        write_report_html(report, run.report_html)
        if board is not None:
            board.on_report(report)
    return report


def _prepare(simulation: Simulation, view: LiveView) -> tuple[Hospitals, dict[str, Task]]:
    """Write or find the hospitals, decode them, and refuse what cannot work before it starts."""
    scenario, run = simulation.scenario, simulation.run
    device_of(scenario.device)
    choice = scenario.hospitals
    if choice.root is None:
        view.phase("Drawing synthetic hospitals")
        draw_hospitals(choice, run.path, seed=scenario.seed, workers=simulation.workers)
    hospitals = find_hospitals(choice, run.path)
    sites = list(hospitals.everyone.values())
    view.phase("Reading DICOM", total=len(sites), unit="hospital")
    tasks = read_tasks(
        sites,
        image_size=scenario.model.image_size,
        channels=scenario.model.channels,
        workers=simulation.workers,
        on_site=view.advance,
    )
    refuse_shared_patients(sites)
    training = {name: tasks[name] for name in hospitals.training}
    studies = [scenario.study()]
    if {"fedavg", "fedadam"} & set(scenario.baselines.methods):
        studies.append(scenario.fedavg_study())
    for study in studies:
        refuse_unfit_sites(study, list(training.values()))
        policies_of(scenario.privacy, training, learner=study.learner, rounds=study.rounds)
    for name in hospitals.held_out:
        design_for(tasks[name], scenario.evaluation.plan(scenario.seed))
    return hospitals, tasks


def _take_away_after_a_mistake(
    run: RunDirectory,
    kind: type[BaseException] | None,
    error: BaseException | None,  # noqa: ARG001 (the shape of an __exit__)
    trace: TracebackType | None,  # noqa: ARG001
) -> None:
    if kind is None or not issubclass(kind, MetawardError):
        return  # an interrupted run may be resumed
    for path in run.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    with suppress(OSError):  # a mount point stays
        run.path.rmdir()


def _evaluate(
    simulation: Simulation,
    hospitals: Hospitals,
    tasks: Mapping[str, Task],
    methods: tuple[Method, ...],
    view: LiveView,
) -> list[SiteEvaluation]:
    plan = simulation.scenario.evaluation.plan(simulation.scenario.seed)
    held_out = list(hospitals.held_out)
    view.phase("Evaluating", total=plan.episodes * len(held_out), unit="episode")
    evaluations = []
    with WorkerPool(simulation.workers, preload=PRELOADED) as pool:
        for number, name in enumerate(held_out):
            evaluations.append(
                evaluate_site(
                    tasks[name],
                    methods,
                    plan,
                    pool.map,
                    finished=partial(_advance, view, number * plan.episodes),
                )
            )
    return evaluations


def _advance(view: LiveView, before: int, done: int) -> None:
    view.advance(before + done)
