"""Accuracy at hospitals that took no part, when some that do take part send lies, per aggregation.

    python benchmarks/bench_robust.py [--rounds 30] [--seeds 1] [--quick]

Eight synthetic hospitals train, two are held out; no privacy mechanism. Of the eight, none or two
are hostile. Those are told everything: all honest deltas of the round.

flipped   each sends -10 times its own honest delta
hidden    each sends the mean of the honest deltas less 1.5 standard deviations, coordinate by
          coordinate: a lie within the spread of the honest (Baruch, Baruch and Goldberg 2019,
          arXiv:1902.06156)

Every rule is told of two hostile sites, also where there are none. Accuracy is the mean over the
held-out hospitals of 5-shot 5-way episodes, and over seeds of training; the hospitals stay the
same. Sites' work, admission's bound on norms, the rule and the outer step are those of a study;
only Flower is left out.
"""

import argparse
import itertools
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.arrays import Arrays, l2_norm, to_arrays, to_tensors
from metaward.episode_scores import Method
from metaward.evaluation import evaluate_site
from metaward.evaluation_design import EvaluationPlan
from metaward.learner_settings import PrototypicalSettings
from metaward.meta.compose import build_learner
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import (
    AggregationSettings,
    GeometricMedianSettings,
    KrumSettings,
    MeanSettings,
    MedianSettings,
    MultiKrumSettings,
    Study,
    TrimmedMeanSettings,
)
from metaward.tasks import Task
from metaward.workers import WorkerPool
from metaward_client.site import load_site
from metaward_client.site_work import site_seed
from metaward_server.aggregation.compose import aggregate
from metaward_server.outer_optimizers import initial_state, outer_step
from metaward_server.study_run import initial_theta
from metaward_sim.demo_data import write_demo
from metaward_sim.recommended import recommended_outer

SITES, HELD_OUT, HOSTILE = 8, 2, 2
SHOTS = 5
PATIENTS = 24
ATTACKS = ("none", "flipped", "hidden")
FACTOR = -10.0
SPREAD = 1.5
RULES: tuple[AggregationSettings, ...] = (
    MeanSettings(),
    MedianSettings(),
    TrimmedMeanSettings(fraction=HOSTILE / SITES),
    KrumSettings(hostile=HOSTILE),
    MultiKrumSettings(hostile=HOSTILE),
    GeometricMedianSettings(),
)
MODEL = ModelSettings(filters=16)
LEARNER = PrototypicalSettings(n_query=3, episodes=2)
PRELOADED = ("torch", "metaward.evaluation", "metaward_client.site")


@dataclass(frozen=True)
class Job:
    """One training and its evaluation. Rounds 0: the untrained start."""

    hospitals: str
    rule: AggregationSettings
    attack: str
    rounds: int
    episodes: int
    seed: int

    def study(self) -> Study:
        return Study(
            name="bench",
            seed=self.seed,
            rounds=max(self.rounds, 1),
            model=MODEL,
            learner=LEARNER,
            aggregation=self.rule,
            outer=recommended_outer(LEARNER),
        )


def run(job: Job) -> dict[str, Any]:
    """Train, then measure; in a worker."""
    torch.set_num_threads(1)
    study = job.study()
    folders = sorted(path for path in Path(job.hospitals).iterdir() if path.is_dir())
    tasks = [
        load_site(folder).load_task(image_size=MODEL.image_size, channels=MODEL.channels)
        for folder in folders
    ]
    theta, refused = train(study, tasks[:SITES], job.attack) if job.rounds else (None, 0)
    theta = initial_theta(study) if theta is None else theta
    plan = EvaluationPlan((SHOTS,), 5, 8, job.episodes, seed=0)
    method = Method("meta", "meta", MODEL, LEARNER, theta)
    scores = {
        task.site: evaluate_site(task, (method,), plan).estimate("meta", SHOTS).mean
        for task in tasks[SITES:]
    }
    return {
        "rule": job.rule.model_dump(),
        "attack": job.attack,
        "rounds": job.rounds,
        "seed": job.seed,
        "refused": refused,
        "sites": scores,
        "accuracy": float(np.mean(list(scores.values()))),
    }


def train(study: Study, tasks: list[Task], attack: str) -> tuple[Arrays, int]:
    """Return theta after the study's rounds, and how many updates were too long."""
    body, learner = build_body(study.model, study.seed), build_learner(study.learner)
    theta = initial_theta(study)
    state = initial_state(study.outer, theta)
    refused = 0
    for round_index in range(study.rounds):
        start = to_tensors(theta)
        deltas = []
        for task in tasks:
            seed = np.random.SeedSequence([*site_seed(study.seed, task.site), round_index])
            rng = np.random.default_rng(seed)
            deltas.append(to_arrays(learner.local_delta(body, start, task, rng).delta))
        sent = deltas if attack == "none" else with_lies(deltas, attack)
        admitted = [delta for delta in sent if l2_norm(delta) <= study.round.max_delta_norm]
        refused += len(sent) - len(admitted)
        delta = aggregate(study.aggregation, admitted)
        theta, state = outer_step(study.outer, state, theta, delta)
    return theta, refused


def with_lies(deltas: list[Arrays], attack: str) -> list[Arrays]:
    """Return the deltas with lies in place of the first sites' own."""
    liars, honest = deltas[:HOSTILE], deltas[HOSTILE:]
    if attack == "flipped":
        lies = [{name: leaf * np.float32(FACTOR) for name, leaf in d.items()} for d in liars]
    else:
        stacks = {name: np.stack([delta[name] for delta in honest]) for name in honest[0]}
        lie = {name: s.mean(axis=0) - SPREAD * s.std(axis=0) for name, s in stacks.items()}
        lies = [{name: leaf.astype(np.float32) for name, leaf in lie.items()}] * HOSTILE
    return [*lies, *honest]


def print_table(results: list[dict[str, Any]]) -> None:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for result in results:
        if result["rounds"]:
            found[result["rule"]["name"], result["attack"]].append(result["accuracy"])
    untrained = np.mean([r["accuracy"] for r in results if not r["rounds"]])
    title = f"5-shot accuracy at hospitals that took no part; untrained {untrained:.1%}"
    headings = ["aggregation", "none hostile", *(f"2 of 8, {a}" for a in ATTACKS[1:])]
    table = Table(*headings, title=title)
    for rule in RULES:
        means = (np.mean(found[rule.name, attack]) for attack in ATTACKS)
        table.add_row(rule.name, *(f"{mean:.1%}" for mean in means))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds, one seed")
    options = parser.parse_args()
    rounds, episodes, seeds = options.rounds, options.episodes, options.seeds
    if options.quick:
        rounds, episodes, seeds = 2, 10, 1
    with tempfile.TemporaryDirectory() as folder:
        write_demo(
            Path(folder), hospitals=SITES + HELD_OUT, patients=PATIENTS, workers=options.workers
        )
        jobs = []
        for seed in range(seeds):
            jobs.append(Job(folder, MeanSettings(), "none", 0, episodes, seed))
            jobs += [
                Job(folder, rule, attack, rounds, episodes, seed)
                for rule, attack in itertools.product(RULES, ATTACKS)
            ]
        with WorkerPool(options.workers, preload=PRELOADED) as pool:
            results = list(pool.map(run, jobs))
    print_table(results)
    save(__file__, {"hostile": HOSTILE, "of": SITES, "runs": results})


if __name__ == "__main__":
    main()
