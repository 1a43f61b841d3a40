"""Evaluate a run's models at a site that took no part: the same question, any DICOM folder."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from metaward.adapt_settings import TRAINING_ALONE, AdaptSettings
from metaward.arrays import to_arrays
from metaward.config import validate_settings
from metaward.episode_scores import Method
from metaward.errors import ConfigError
from metaward.evaluation import JobMap, evaluate_site
from metaward.evaluation_design import EvaluationPlan
from metaward.learner_settings import FedAvgSettings, LearnerSettings
from metaward.meta.compose import initial_parameters
from metaward.model_artefact import ModelArtefact, load_model
from metaward.provenance import commit, machine, versions
from metaward.report.assemble import (
    comparison_rows,
    evaluation_rows,
    left_out_rows,
    pooled_rows,
    site_summary,
)
from metaward.report.methods import BASELINES, shared_model
from metaward.report.schema import MethodSummary, Provenance, Report
from metaward.run_directory import RunDirectory, model_folder
from metaward.tasks import Task


@dataclass(frozen=True)
class Candidates:
    """The shared model and what it is compared with.

    Attributes:
        artefact: The shared model.
        methods: The shared model first.
        summaries: How the report speaks of each.
    """

    artefact: ModelArtefact
    methods: tuple[Method, ...]
    summaries: tuple[MethodSummary, ...]


def candidates(path: Path) -> Candidates:
    """Return the methods of a run directory or of a model artefact.

    Every baseline that the run trained is compared, and always training alone, as in the run, and
    a random start.

    Raises:
        ConfigError: There is no model, or a file of it is damaged.
    """
    artefact = load_model(model_folder(path))
    card = artefact.card
    found = [Method("meta", card.label, card.model, card.learner, artefact.theta)]
    summaries = [shared_model(card.learner)]
    for folder in RunDirectory(path).baselines:
        baseline = load_model(folder)
        summary = BASELINES.get(baseline.card.method)
        if summary is None:
            raise ConfigError(
                f"a baseline called {baseline.card.method}",
                expected=f"one of {', '.join(BASELINES)}",
                where=str(folder),
                next_step="Evaluate with the version of metaward that wrote the run.",
            )
        found.append(_method(summary, baseline))
        summaries.append(summary)
    untrained: tuple[tuple[str, LearnerSettings], ...] = (
        ("local", FedAvgSettings(adapt=_training_alone(RunDirectory(path)))),
        ("random", card.learner),
    )
    for name, learner in untrained:
        summary = BASELINES[name]
        theta = to_arrays(initial_parameters(card.model, learner, card.seed))
        found.append(Method(name, summary.label, card.model, learner, theta))
        summaries.append(summary)
    return Candidates(artefact, tuple(found), tuple(summaries))


def new_site_report(
    chosen: Candidates,
    task: Task,
    plan: EvaluationPlan,
    map_jobs: JobMap,
    *,
    command: str,
    now: datetime,
    synthetic: bool,
) -> Report:
    """Measure the candidates at a site and return the report.

    Args:
        chosen: From :func:`candidates`.
        task: The site's images; the site must not have taken part in the training.
        plan: What to measure.
        map_jobs: A pool's ordered map, or ``map``.
        command: The command line, for the report.
        now: Time of the report.
        synthetic: True when the site's images were drawn by a program.

    Raises:
        DataError: The site has too few patients for any shot count of the plan.
    """
    evaluation = evaluate_site(task, chosen.methods, plan, map_jobs)
    names = [method.name for method in chosen.methods]
    card = chosen.artefact.card
    return Report(
        kind="new-site",
        title=f"{card.study} at {task.site}",
        synthetic_data=synthetic,
        method="meta",
        baseline="local",
        methods=chosen.summaries,
        learning_curve=tuple(sorted(set(plan.shots))),
        sites=(site_summary(task, held_out=True),),
        evaluation=evaluation_rows([evaluation]),
        comparison=comparison_rows([evaluation], method="meta", references=names[1:]),
        pooled=pooled_rows([evaluation], names),
        left_out=left_out_rows([evaluation]),
        privacy=card.privacy,
        settings=card.model_dump(mode="json"),
        provenance=Provenance(
            command=command,
            commit=commit(),
            seeds={"evaluation": plan.seed, "training": card.seed},
            versions=versions(),
            machine=machine(),
            started=now.isoformat(timespec="seconds"),
            model_sha256=card.parameters_sha256,
        ),
    )


def took_part(path: Path, site: str) -> bool:
    """Say whether a site of this name took part in the run's training, as far as the run knows.

    A simulation writes who took part; after a real federation nobody is known, and this is False.

    Args:
        path: A run directory, or the model in one; a model that was moved knows nothing.
        site: Name of the site.
    """
    folders = (path, path.resolve().parent)
    return any(site in RunDirectory(folder).read_privacy() for folder in folders)


def _training_alone(run: RunDirectory) -> AdaptSettings:
    """Return how a hospital trains alone in a simulation; elsewhere, how it does by default."""
    settings: object = run.read_config() if run.config.is_file() else None
    for key in ("scenario", "baselines", "local"):
        settings = settings.get(key) if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        return TRAINING_ALONE
    return validate_settings(settings, AdaptSettings, where=f"{run.config}, baselines.local")


def _method(summary: MethodSummary, artefact: ModelArtefact) -> Method:
    card = artefact.card
    return Method(summary.name, summary.label, card.model, card.learner, artefact.theta)
