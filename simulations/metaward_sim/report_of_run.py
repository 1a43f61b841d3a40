"""What a simulation's report says: who took part, what was measured there, and from what."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from metaward.evaluation import SiteEvaluation
from metaward.model_artefact import ModelCard
from metaward.provenance import commit, machine, versions
from metaward.report.assemble import (
    comparison_rows,
    evaluation_rows,
    left_out_rows,
    pooled_rows,
    site_summary,
)
from metaward.report.methods import BASELINES, shared_model
from metaward.report.schema import MethodSummary, Provenance, Report, TrainingRound
from metaward.tasks import Task
from metaward_sim.hospitals_of_run import Hospitals
from metaward_sim.scenario import Scenario

DRAWN = "synthetic: a program drew the images"
"""What a report says of a hospital."""


def report_of_run(
    scenario: Scenario,
    hospitals: Hospitals,
    tasks: Mapping[str, Task],
    evaluations: Sequence[SiteEvaluation],
    rounds: Sequence[TrainingRound],
    *,
    card: ModelCard,
    command: str,
    started: datetime,
    wall_seconds: Mapping[str, float],
) -> Report:
    """Return the report of a run that has ended.

    Args:
        scenario: What was simulated.
        hospitals: Those that trained, and those held out.
        tasks: The data of each, by name.
        evaluations: Of the hospitals held out.
        rounds: Of the scenario's own method, in order.
        card: Of the model that the run wrote.
        command: What the user typed.
        started: When.
        wall_seconds: What each phase took.
    """
    names: Sequence[str] = scenario.baselines.methods
    summaries: tuple[MethodSummary, ...] = (
        shared_model(scenario.learner),
        *(BASELINES[name] for name in names),
    )
    main = summaries[0].name
    return Report(
        kind="simulation",
        title=f"{scenario.name}: {len(hospitals.training)} hospitals learn together",
        synthetic_data=hospitals.synthetic,
        method=main,
        baseline="local" if "local" in names else (names[0] if names else None),
        methods=summaries,
        learning_curve=tuple(sorted(set(scenario.evaluation.shots))),
        sites=tuple(
            site_summary(
                tasks[name],
                held_out=name in hospitals.held_out,
                description=DRAWN if site.config.synthetic else "",
            )
            for name, site in hospitals.everyone.items()
        ),
        evaluation=evaluation_rows(evaluations),
        comparison=comparison_rows(evaluations, method=main, references=names),
        pooled=pooled_rows(evaluations, [summary.name for summary in summaries]),
        left_out=left_out_rows(evaluations),
        training=tuple(rounds),
        privacy=card.privacy,
        settings=scenario.model_dump(mode="json"),
        provenance=Provenance(
            command=command,
            commit=commit(),
            seeds={"seed": scenario.seed},
            versions=versions(),
            wall_seconds={name: round(took, 2) for name, took in wall_seconds.items()},
            machine=machine(),
            started=started.isoformat(timespec="seconds"),
            model_sha256=card.parameters_sha256,
        ),
    )
