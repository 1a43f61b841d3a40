"""From scores to the rows of a report: means, paired differences, the mean over sites."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from metaward.evaluation import METRICS, SiteEvaluation
from metaward.intervals import Estimate, mean_over_sites
from metaward.progress import RoundEvent
from metaward.report.schema import (
    ComparisonRow,
    EvaluationRow,
    Interval,
    LabelSummary,
    LeftOutRow,
    Metric,
    PooledRow,
    SiteSummary,
    TrainingRound,
)
from metaward.tasks import Task

AUROC_CHANCE = 0.5


def site_summary(task: Task, *, held_out: bool, description: str = "") -> SiteSummary:
    """Return the counts of a site."""
    return SiteSummary(
        name=task.site,
        held_out=held_out,
        images=task.n_images,
        patients=task.n_patients,
        labels=tuple(
            LabelSummary(
                name=name,
                images=int(np.sum(task.labels == label)),
                patients=len(task.images_of[label]),
            )
            for label, name in enumerate(task.label_names)
        ),
        description=description,
    )


def training_round(event: RoundEvent, *, loss: float | None = None) -> TrainingRound:
    """Return the report's line for a closed round; ``loss`` where a simulation knows it."""
    return TrainingRound(
        round_index=event.round_index,
        loss=_finite(loss),
        delta_norm=_finite(event.delta_norm),
        asked=event.asked,
        admitted=event.admitted,
        refused=sum(event.refused.values()),
        void=event.void,
        seconds=_finite(event.seconds),
    )


def evaluation_rows(evaluations: Iterable[SiteEvaluation]) -> tuple[EvaluationRow, ...]:
    """Return one row per site, method, shot count and metric."""
    return tuple(
        _row(evaluation, method, shots, metric)
        for evaluation in evaluations
        for metric in METRICS
        for method in evaluation.methods
        for shots in evaluation.design.shots
    )


def comparison_rows(
    evaluations: Sequence[SiteEvaluation], *, method: str, references: Sequence[str]
) -> tuple[ComparisonRow, ...]:
    """Return how ``method`` compares with each reference: site by site, and over the sites."""
    rows: list[ComparisonRow] = []
    for metric in METRICS:
        for reference in references:
            for shots in _all_shots(evaluations):
                at_sites = {
                    evaluation.site: evaluation.difference(method, reference, shots, metric)
                    for evaluation in evaluations
                    if shots in evaluation.design.shots
                }
                over_sites = {None: mean_over_sites(list(at_sites.values()))}
                rows += [
                    ComparisonRow(
                        site=site,
                        method=method,
                        reference=reference,
                        shots=shots,
                        metric=metric,
                        difference=_finite(estimate.mean),
                        ci95=_interval(estimate),
                        episodes=estimate.episodes,
                        patients=estimate.patients,
                    )
                    for site, estimate in (at_sites | over_sites).items()
                ]
    return tuple(rows)


def pooled_rows(
    evaluations: Sequence[SiteEvaluation], methods: Sequence[str]
) -> tuple[PooledRow, ...]:
    """Return the mean over the sites that a shot count was measured at, per method."""
    rows: list[PooledRow] = []
    for metric in METRICS:
        for method in methods:
            for shots in _all_shots(evaluations):
                at_sites = {
                    evaluation.site: evaluation.estimate(method, shots, metric)
                    for evaluation in evaluations
                    if shots in evaluation.design.shots
                }
                over_sites = mean_over_sites(list(at_sites.values()))
                worst = min(at_sites, key=lambda site: at_sites[site].mean)
                rows.append(
                    PooledRow(
                        method=method,
                        shots=shots,
                        metric=metric,
                        mean=_share(over_sites.mean),
                        ci95=_interval(over_sites),
                        sites=tuple(at_sites),
                        worst_site=worst,
                        worst_mean=min(max(at_sites[worst].mean, 0.0), 1.0),
                    )
                )
    return tuple(rows)


def left_out_rows(evaluations: Iterable[SiteEvaluation]) -> tuple[LeftOutRow, ...]:
    """Return the shot counts that were not measured, with the reason."""
    return tuple(
        LeftOutRow(site=evaluation.site, shots=left.shots, reason=left.reason)
        for evaluation in evaluations
        for left in evaluation.design.left_out
    )


def _row(evaluation: SiteEvaluation, method: str, shots: int, metric: Metric) -> EvaluationRow:
    estimate = evaluation.estimate(method, shots, metric)
    n_way = evaluation.design.n_way
    return EvaluationRow(
        site=evaluation.site,
        method=method,
        shots=shots,
        metric=metric,
        mean=_share(estimate.mean),
        ci95=_interval(estimate),
        episodes=estimate.episodes,
        patients=estimate.patients,
        n_way=n_way,
        queries=evaluation.queries,
        chance=1.0 / n_way if metric == "accuracy" else AUROC_CHANCE,
        adapt_seconds=evaluation.seconds_to_adapt(method, shots),
    )


def _all_shots(evaluations: Iterable[SiteEvaluation]) -> list[int]:
    return sorted({shots for evaluation in evaluations for shots in evaluation.design.shots})


def _interval(estimate: Estimate) -> Interval | None:
    low, high = _finite(estimate.low), _finite(estimate.high)
    return None if low is None or high is None else (low, high)


def _share(value: float) -> float | None:
    """Return ``value`` within [0, 1], which float32 scores may miss by a rounding."""
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else None


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
