"""Reports for tests. All figures here are synthetic: drawn from a formula, not measured."""

import numpy as np

from metaward.episode_scores import EpisodeScores
from metaward.evaluation import SiteEvaluation
from metaward.evaluation_design import LeftOut, SiteDesign
from metaward.progress import RoundEvent
from metaward.report.assemble import (
    comparison_rows,
    evaluation_rows,
    left_out_rows,
    pooled_rows,
    training_round,
)
from metaward.report.methods import FEDAVG, LOCAL, RANDOM, SHARED
from metaward.report.schema import (
    ComparisonRow,
    EvaluationRow,
    LabelSummary,
    Provenance,
    Report,
    SiteSummary,
)

METHODS = (SHARED, FEDAVG, LOCAL, RANDOM)
SKILL = {"meta": 1.35, "fedavg": 1.05, "local": 0.55, "random": 0.35}


def synthetic_evaluation(
    site,
    *,
    n_patients=60,
    n_way=5,
    shots=(1, 5, 10, 20),
    hardness=0.0,
    skill=None,
    seed=0,
    episodes=60,
    left_out=(),
):
    """Scores from a logistic formula with patient and episode effects."""
    rng = np.random.default_rng(seed)
    skill = skill or SKILL
    queries = n_way * 4
    patient = np.concatenate(
        [rng.choice(n_patients, queries, replace=False) for _ in range(episodes)]
    )
    episode = np.repeat(np.arange(episodes, dtype=np.int32), queries)
    shared = rng.normal(0, 0.8, n_patients)[patient] + rng.normal(0, 0.3, episodes)[episode]
    luck = rng.random(len(patient))
    correct = np.zeros((len(skill), len(shots), len(patient)), dtype=np.uint8)
    for m, level in enumerate(skill.values()):
        for s, k in enumerate(shots):
            own = rng.normal(0, 0.4, n_patients)[patient]
            logit = level * (0.3 + 0.7 * np.log1p(k)) - 1.2 - hardness + shared + own
            correct[m, s] = luck < 1 / n_way + (1 - 1 / n_way) / (1 + np.exp(-logit))
    auroc = (0.5 + 0.5 * correct.mean(axis=2, keepdims=True)) + 0.3 * (correct - 0.5)
    return SiteEvaluation(
        site=site,
        design=SiteDesign(tuple(shots), n_way, tuple("abcdefg"[:n_way]), tuple(left_out)),
        methods=tuple(skill),
        scores=EpisodeScores(
            episode=episode,
            patient=patient,
            label=np.tile(np.repeat(np.arange(n_way), 4), episodes),
            support=rng.integers(0, n_patients, (episodes, n_way, max(shots))),
            correct=correct,
            auroc=np.clip(auroc, 0, 1).astype(np.float32),
            adapt_seconds=np.full((len(skill), len(shots), episodes), 0.034),
        ),
    )


def synthetic_report(evaluations=None, **changes):
    if evaluations is None:
        evaluations = (
            synthetic_evaluation("riverside", seed=1),
            synthetic_evaluation(
                "st-anne-children",
                n_patients=28,
                n_way=3,
                shots=(1, 5, 10),
                hardness=0.8,
                seed=2,
                left_out=(LeftOut(20, "1 of 4 labels have 20 images to adapt on"),),
            ),
        )
    names = [method.name for method in METHODS]
    losses = 1.6 * np.exp(-np.arange(40) / 18) + 0.4
    fields = {
        "kind": "simulation",
        "title": "Demo study",
        "synthetic_data": True,
        "method": "meta",
        "baseline": "local",
        "methods": METHODS,
        "learning_curve": (1, 5, 10, 20),
        "sites": tuple(
            SiteSummary(
                name=name,
                held_out=name in {e.site for e in evaluations},
                images=480,
                patients=120,
                labels=tuple(
                    LabelSummary(name=f"finding {x}", images=160, patients=40) for x in "abc"
                ),
                description="chest radiographs, 2 scanners",
            )
            for name in (*(e.site for e in evaluations), "north", "south", "old-town")
        ),
        "evaluation": evaluation_rows(evaluations),
        "comparison": comparison_rows(evaluations, method="meta", references=names[1:])
        if evaluations
        else (),
        "pooled": pooled_rows(evaluations, names) if evaluations else (),
        "left_out": left_out_rows(evaluations),
        "training": tuple(
            training_round(
                RoundEvent(i, 40, 6, 6 - (i == 7), {"norm": 1} if i == 7 else {}, False, 0.5, 2.0),
                loss=float(losses[i]),
            )
            for i in range(40)
        ),
        "settings": {"name": "demo", "rounds": 40, "model": {"name": "conv4", "filters": 32}},
        "provenance": Provenance(
            command="metaward simulate --seed 7",
            commit="0123abc",
            seeds={"study": 7, "evaluation": 7},
            versions={"metaward": "0.1.0", "torch": "2.13.0"},
            wall_seconds={"meta-training": 95.2, "evaluation": 41.0},
            machine="2 cores",
            started="2026-01-02T03:04:05+00:00",
            model_sha256="ab" * 32,
        ),
    }
    return Report(**(fields | changes))


def handmade(meta, local, difference, *, extra=(), **changes):
    """One site, one shot count, figures set by hand: (mean, low, high) in per cent each."""

    def shares(numbers):
        mean, *ends = (number / 100 for number in numbers)
        return mean, tuple(ends)

    def row(method, numbers):
        mean, ci95 = shares(numbers)
        return EvaluationRow(
            site="X",
            method=method,
            shots=5,
            mean=mean,
            ci95=ci95,
            episodes=200,
            patients=80,
            n_way=5,
            queries=5000,
            chance=0.2,
            adapt_seconds=0.21,
        )

    def compare(reference, numbers):
        mean, ci95 = shares(numbers)
        return ComparisonRow(
            site="X",
            method="meta",
            reference=reference,
            shots=5,
            difference=mean,
            ci95=ci95,
            episodes=200,
            patients=80,
        )

    fields = {
        "kind": "new-site",
        "title": "Hospital X",
        "synthetic_data": False,
        "method": "meta",
        "baseline": "local",
        "methods": METHODS[:3],
        "learning_curve": (5,),
        "sites": (),
        "evaluation": (row("meta", meta), row("local", local)),
        "comparison": (
            compare("local", difference),
            *(compare(name, numbers) for name, numbers in extra),
        ),
        "pooled": (),
        "provenance": Provenance(command="metaward evaluate run --site X"),
    }
    return Report(**(fields | changes))
