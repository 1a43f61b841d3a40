"""Train the method and its baselines; each leaves a model artefact in the run directory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from metaward.arrays import Arrays
from metaward.episode_scores import Method
from metaward.learner_settings import FedAvgSettings, LearnerSettings
from metaward.model_artefact import ModelCard, load_card, load_model, save_model
from metaward.privacy_statement import PrivacyStatement
from metaward.progress import RoundEvent
from metaward.report.assemble import training_round
from metaward.report.methods import BASELINES, shared_model
from metaward.report.schema import MethodSummary, TrainingRound
from metaward.run_directory import RunDirectory
from metaward.start_model import START_FOLDER, with_start
from metaward.study import Study
from metaward.tasks import Task
from metaward.workers import WorkerPool
from metaward_client.site import Site
from metaward_server.study_run import CHECKPOINTS_FOLDER, first_theta, initial_theta
from metaward_sim.federation import PRELOADED, SITES_FOLDER, GridName, run_federation
from metaward_sim.live_view import LiveView
from metaward_sim.pooled import pooled_task, train_pooled
from metaward_sim.privacy_of_run import policies_of, set_up, statements, weakest
from metaward_sim.scenario import BaselineName, Scenario
from metaward_sim.site_losses import SiteLosses

BASELINE_RUNS_FOLDER = "baseline-runs"
OnRound = Callable[[str, RoundEvent, float | None], None]
"""Told the run ("training", or a baseline's name), the round, and the sites' mean loss."""


@dataclass(frozen=True)
class Trainer:
    """What training needs, whichever method it is for.

    Attributes:
        tasks: Of all sites, by name.
    """

    scenario: Scenario
    run: RunDirectory
    sites: Mapping[str, Site]
    tasks: Mapping[str, Task]
    workers: int
    view: LiveView
    on_round: OnRound

    @property
    def start(self) -> Path | None:
        """The model artefact that every training of this run begins from."""
        return None if self.scenario.start is None else self.run.path / START_FOLDER

    def train_method(self) -> tuple[Method, list[TrainingRound]]:
        """Train the method of the scenario; return all its rounds, also after a resume."""
        study, summary = self.scenario.study(), shared_model(self.scenario.learner)
        theta = self._federated(
            study, summary, self.run.path, self.run.model, "Meta-training", "training"
        )
        losses = SiteLosses(self.run.path / SITES_FOLDER)
        rounds = [
            training_round(event, loss=losses.mean(event.round_index))
            for event in self.run.read_rounds()
        ]
        return _method(summary, study.learner, study, theta), rounds

    def privacy(self) -> dict[str, PrivacyStatement]:
        """Return what each hospital can say of its patients, after the method was trained."""
        return statements(self._policies(self.scenario.study(), self.run.path))

    def baseline(self, name: BaselineName) -> Method:
        """Return a baseline, trained where it has something to train."""
        scenario, summary = self.scenario, BASELINES[name]
        fedavg = scenario.fedadam_study() if name == "fedadam" else scenario.fedavg_study()
        match name:
            case "random":
                study = scenario.study()
                return _method(summary, scenario.learner, study, initial_theta(study))
            case "start":
                study = scenario.study()
                theta = first_theta(study, self.start)
                return _method(summary, scenario.learner, study, theta)
            case "local":
                adapting = FedAvgSettings(adapt=scenario.baselines.local)
                return _method(summary, adapting, fedavg, initial_theta(fedavg))
            case "fedavg" | "fedadam":
                theta = self._federated(
                    fedavg,
                    summary,
                    self.run.path / BASELINE_RUNS_FOLDER / name,
                    self.run.baseline(name),
                    f"Baseline: {summary.label.split()[0]}",
                    name,
                )
            case "noise-only":
                study = scenario.study()
                theta = self._federated(
                    study,
                    summary,
                    self.run.path / BASELINE_RUNS_FOLDER / name,
                    self.run.baseline(name),
                    "Control: noise alone",
                    name,
                )
                return _method(summary, study.learner, study, theta)
            case "pooled":
                theta = self._pooled(fedavg, summary)
        return _method(summary, fedavg.learner, fedavg, theta)

    def _federated(
        self,
        study: Study,
        summary: MethodSummary,
        folder: Path,
        artefact: Path,
        phase: str,
        run_name: str,
    ) -> Arrays:
        losses = SiteLosses(folder / SITES_FOLDER)
        self.view.loss_of_round = losses.mean
        self.view.phase(phase, total=study.rounds, unit="round")

        def on_round(event: RoundEvent) -> None:
            loss = losses.mean(event.round_index)
            self.on_round(run_name, event, loss)
            self.view.on_round(event)

        grid: GridName = self.scenario.grid
        policies = self._policies(study, folder)
        theta = run_federation(
            study,
            [site.path for site in self.sites.values()],
            folder,
            policies=policies,
            noise_only=run_name == "noise-only",
            grid=grid,
            workers=self.workers,
            device=self.scenario.device,
            resume=any((folder / CHECKPOINTS_FOLDER).glob("round-*")),
            on_round=on_round,
            start=self.start,
        )
        self._save(artefact, summary, study, theta, weakest(statements(policies).values()))
        return theta

    def _policies(self, study: Study, folder: Path) -> dict[str, Path]:
        """Return each site's policy file in a study's folder, made where it is missing."""
        tasks = {name: self.tasks[name] for name in self.sites}
        policies = policies_of(
            self.scenario.privacy, tasks, learner=study.learner, rounds=study.rounds
        )
        return set_up(folder, policies)

    def _pooled(self, study: Study, summary: MethodSummary) -> Arrays:
        artefact = self.run.baseline(summary.name)
        if artefact.is_dir() and load_card(artefact).study_digest == study.digest():
            return load_model(artefact).theta
        self.view.phase("Baseline: pooled")
        assert isinstance(study.learner, FedAvgSettings)
        steps = study.learner.local_steps * len(self.sites)
        with WorkerPool(1, preload=PRELOADED) as pool:
            task = pooled_task([self.tasks[name] for name in self.sites])
            begun = first_theta(study, self.start)
            theta = pool.submit(train_pooled, study, task, steps, begun).result()
        self._save(artefact, summary, study, theta, PrivacyStatement())
        return theta

    def _save(
        self,
        folder: Path,
        summary: MethodSummary,
        study: Study,
        theta: Arrays,
        privacy: PrivacyStatement,
    ) -> None:
        if self.start is not None:
            privacy = with_start(privacy, study, self.start)
        card = ModelCard.of_study(study, privacy, method=summary.name, label=summary.label)
        save_model(folder, card, theta)


def _method(
    summary: MethodSummary, learner: LearnerSettings, study: Study, theta: Arrays
) -> Method:
    return Method(summary.name, summary.label, study.model, learner, theta)
