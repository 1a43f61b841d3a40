"""Accuracy at hospitals that took no part, against epsilon, per mechanism and learner.

    python benchmarks/bench_privacy.py --data HOSPITALS --held-out a,b [--seeds 3] [--rounds 60]
    python benchmarks/bench_privacy.py            synthetic hospitals of 1,000 patients and more
    python benchmarks/bench_privacy.py --data HOSPITALS --start RUN    from a model of public images

Every update goes through the same door, mechanism and ledger as at a hospital; only Flower is left
out. Each private figure stands beside its control: the same noise without patients. Accuracy is
the mean over held-out hospitals of 5-shot episodes, answered by the nearest class mean, so that
rows differ by their training alone; and over seeds. Without privacy each learner is trained with
the outer step that suits it and with that of private training, and the better one counts. The
budget is patient-level, at delta = 1/(10 patients) of the largest hospital, rounded up. Settings
are the same for every epsilon; only the noise changes.
"""

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.arrays import Arrays
from metaward.episode_scores import Method
from metaward.evaluation import evaluate_site
from metaward.evaluation_design import EvaluationPlan
from metaward.intervals import Estimate
from metaward.learner_settings import (
    AdaptSettings,
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.model_artefact import load_card
from metaward.run_directory import model_folder
from metaward.start_model import begun_from
from metaward.study import ADAM_FOR_SHORT, ModelSettings, OuterSettings, Study
from metaward.tasks import Task
from metaward.workers import WorkerPool
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import read_policy_file
from metaward_client.privacy.release import AskedRound, release
from metaward_client.site import load_site
from metaward_client.site_work import site_seed
from metaward_server.aggregation.compose import aggregate
from metaward_server.outer_optimizers import initial_state, outer_step
from metaward_server.study_run import initial_theta
from metaward_sim.demo_data import write_demo
from metaward_sim.privacy_of_run import policies_of, set_up, statements, weakest
from metaward_sim.recommended import recommended_outer
from metaward_sim.scenario import PrivacyChoice

EPSILONS = (None, 8.0, 3.0, 1.0)
NEAREST_MEAN = AdaptSettings(head="prototypes", steps=0)
PRELOADED = ("torch", "metaward_client.privacy.release", "metaward_sim.privacy_of_run")
SHOTS = 5


@dataclass(frozen=True)
class Row:
    """A learner under a mechanism."""

    learner: LearnerSettings
    mechanism: str
    filters: int = 16
    sums: int = 2
    """k of dp-sgd: at one epsilon, few large sums have less noise than many small ones."""


@dataclass(frozen=True)
class Job:
    """One training, and its evaluation."""

    row: Row
    epsilon: float | None
    noise_only: bool
    sites: tuple[str, ...]
    held_out: tuple[str, ...]
    image: tuple[int, int]
    rounds: int
    episodes: int
    seed: int
    clipped_outer: bool = False
    """Without privacy: take the outer step of private training."""
    start: Path | None = None
    """A model artefact that training begins from."""

    @property
    def outer(self) -> OuterSettings:
        """The server's step, as a simulation would take it."""
        clipped = self.clipped_outer or self.epsilon is not None
        return recommended_outer(self.row.learner, clipped=clipped)

    def first_theta(self, study: Study) -> Arrays:
        """Return theta before round 0."""
        untrained = initial_theta(study)
        return untrained if self.start is None else begun_from(study, untrained, self.start)


def rows() -> list[Row]:
    """Step sizes, sampling, episodes and width were chosen at epsilon 8, seeds 0 and 1, these sets.

    A block's delta is one vector, however many episodes it is the mean of; those with fewer query
    images leave room for more blocks (docs/privacy-accuracy.md).
    """
    gradient: dict[str, Any] = {"adapt": NEAREST_MEAN}
    prototypical = PrototypicalSettings(n_query=2, episodes=8)  # private dp-sgd draws none
    fomaml = FomamlSettings(n_way=10, inner_lr=LR, **gradient)
    reptile = ReptileSettings(n_way=10, inner_lr=LR, **gradient)
    return [
        Row(prototypical, "dp-sgd", sums=3),
        Row(fomaml, "dp-sgd", sums=1),
        Row(reptile, "dp-sgd"),
        Row(prototypical, "block"),
        Row(FedAvgSettings(local_lr=LR, **gradient), "block"),
        Row(FedAvgSettings(local_lr=LR, **gradient), "dp-sgd"),
        Row(fomaml, "block"),
        Row(reptile, "block"),
    ]


LR = 0.3
RATE = 0.3
"""q of both mechanisms."""


def choice_of(job: Job) -> PrivacyChoice | None:
    if job.epsilon is None:
        return None
    if job.row.mechanism == "block":
        return PrivacyChoice(mechanism="block", target_epsilon=job.epsilon, sample_rate=RATE)
    return PrivacyChoice(target_epsilon=job.epsilon, sample_rate=RATE, steps_per_round=job.row.sums)


def run(job: Job) -> dict[str, Any]:
    """Train, then measure; in a worker of its own."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    size, channels = job.image
    tasks = {
        Path(site).name: load_site(Path(site)).load_task(image_size=size, channels=channels)
        for site in (*job.sites, *job.held_out)
    }
    training = {Path(site).name: tasks[Path(site).name] for site in job.sites}
    model = ModelSettings(filters=job.row.filters, image_size=size, channels=channels)
    study = Study(
        name="bench",
        seed=job.seed,
        rounds=max(job.rounds, 1),
        model=model,
        learner=job.row.learner,
        outer=job.outer,
    )
    theta, said = job.first_theta(study), {}
    if job.rounds:
        with tempfile.TemporaryDirectory() as folder:
            theta, said = train(study, training, job, Path(folder))
    name = job.row.learner.name
    plan = EvaluationPlan((SHOTS,), 5, 8, job.episodes, job.seed)
    method = Method("meta", "meta", model, job.row.learner, theta)
    scores = {
        Path(site).name: estimate(tasks[Path(site).name], method, plan).mean
        for site in job.held_out
    }
    return {
        "learner": name,
        "mechanism": job.row.mechanism,
        "filters": job.row.filters,
        "sums": job.row.sums,
        "target_epsilon": job.epsilon,
        "noise_only": job.noise_only,
        "outer": study.outer.model_dump(),
        "rounds": job.rounds,
        "seed": job.seed,
        "privacy": said,
        "accuracy": float(np.mean(list(scores.values()))),
        "sites": scores,
        "seconds": round(time.perf_counter() - began, 1),
    }


def train(
    study: Study, tasks: dict[str, Task], job: Job, folder: Path
) -> tuple[Arrays, dict[str, Any]]:
    choice = choice_of(job)
    chosen = policies_of(choice, tasks, learner=study.learner, rounds=study.rounds)
    files = set_up(folder, chosen)
    policies = {name: read_policy_file(path) for name, path in files.items()}
    noise = {
        "noise_multiplier": getattr(next(iter(policies.values())), "noise_multiplier", None),
    }
    theta = job.first_theta(study)
    state = initial_state(study.outer, theta)
    source = os_noise()
    for round_index in range(study.rounds):
        deltas = []
        for name, task in tasks.items():
            seed = site_seed(study.seed, name)
            asked = AskedRound(study, round_index, theta, (*seed, round_index), seed[1] % 2**32)
            own = without_patients(task) if job.noise_only else task
            deltas.append(release(asked, lambda own=own: own, policies[name], source).update.delta)
        theta, state = outer_step(study.outer, state, theta, aggregate(study.aggregation, deltas))
    return theta, weakest(statements(files).values()).model_dump(mode="json") | noise


def without_patients(task: Task) -> Task:
    return replace(
        task,
        images=task.images[:0],
        labels=task.labels[:0],
        patients=task.patients[:0],
        patient_tokens=(),
    )


def estimate(task: Task, method: Method, plan: EvaluationPlan) -> Estimate:
    """Return the accuracy at one site."""
    evaluation = evaluate_site(task, (method,), plan, lambda work, jobs: map(work, jobs))
    return evaluation.estimate("meta", SHOTS)


def jobs_of(root: Path, arguments: argparse.Namespace) -> list[Job]:
    sites = sorted(path for path in root.iterdir() if path.is_dir())
    names = [path.name for path in sites]
    held_out = arguments.held_out.split(",") if arguments.held_out else names[-2:]
    base = Job(
        row=rows()[0],
        epsilon=None,
        noise_only=False,
        sites=tuple(str(path) for path in sites if path.name not in held_out),
        held_out=tuple(str(root / name) for name in held_out),
        image=(arguments.size, arguments.channels),
        rounds=2 if arguments.quick else arguments.rounds,
        episodes=10 if arguments.quick else arguments.episodes,
        seed=0,
        start=arguments.start and model_folder(arguments.start),
    )
    budgets = EPSILONS[:2] if arguments.quick else EPSILONS
    if arguments.epsilon:
        budgets = (None, arguments.epsilon)
    named = arguments.rows.split(",") if arguments.rows else []
    chosen = [row for row in rows() if not named or f"{row.learner.name}/{row.mechanism}" in named]
    jobs = []
    for seed in range(1 if arguments.quick else arguments.seeds):
        seeded = replace(base, seed=seed)
        jobs.append(replace(seeded, rounds=0))
        for row, epsilon in itertools.product(chosen, budgets):
            jobs.append(replace(seeded, row=row, epsilon=epsilon))
            if epsilon is None and recommended_outer(row.learner) != ADAM_FOR_SHORT:
                jobs.append(replace(seeded, row=row, epsilon=None, clipped_outer=True))
            if epsilon is not None:
                jobs.append(replace(seeded, row=row, epsilon=epsilon, noise_only=True))
    return jobs


def measure(root: Path, arguments: argparse.Namespace) -> None:
    """Run all jobs; the figures are written after each, because all of them take an hour."""
    jobs = jobs_of(root, arguments)
    name = f"bench_{arguments.name}.py" if arguments.name else __file__
    results: list[dict[str, Any]] = []
    said: dict[str, Any] = {"of": len(jobs), "runs": results}
    if jobs[0].start is not None:
        said["start_sha256"] = load_card(jobs[0].start).parameters_sha256
    with WorkerPool(arguments.workers, preload=PRELOADED) as pool:
        for result in pool.map(run, jobs):
            results.append(result)
            save(name, said, quiet=True)
            Console(stderr=True).print(result["learner"], result["mechanism"], result["accuracy"])
    print_table(results)
    save(name, said)


def print_table(results: list[dict[str, Any]]) -> None:
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)  # Any: keys of five kinds
    for r in results:
        if r["rounds"]:
            key = (r["learner"], r["mechanism"], r["target_epsilon"], r["noise_only"])
            found[*key, str(r["outer"])].append(r["accuracy"])
    found = best_of_each(found)
    untrained = np.mean([r["accuracy"] for r in results if not r["rounds"]])
    table = Table(title=f"5-shot accuracy, mean over seeds; untrained {untrained:.1%}")
    for heading in ("learner", "mechanism", "epsilon", "accuracy", "noise alone", "below"):
        table.add_column(heading)
    for (learner, mechanism, epsilon, noise_only), accuracies in found.items():
        if noise_only:
            continue
        plain = np.mean(found[learner, mechanism, None, False])
        control = found.get((learner, mechanism, epsilon, True))
        table.add_row(
            learner,
            mechanism,
            "none" if epsilon is None else f"{epsilon:g}",
            f"{np.mean(accuracies):.1%}",
            "" if control is None else f"{np.mean(control):.1%}",
            f"{100 * (plain - np.mean(accuracies)):.1f} points",
        )
    Console().print(table)


def best_of_each(found: dict[tuple[Any, ...], list[float]]) -> dict[tuple[Any, ...], list[float]]:
    """Return the accuracies of the outer step with the best mean, by the key without it."""
    best: dict[tuple[Any, ...], list[float]] = {}
    for (*key, _), accuracies in found.items():
        if np.mean(accuracies) > np.mean(best.get(tuple(key), [0.0])):
            best[tuple(key)] = accuracies
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--held-out", default="")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings of each kind")
    parser.add_argument("--name", default="", help="of the file with the figures")
    parser.add_argument("--rows", default="", help="learner/mechanism,...; left out: all")
    parser.add_argument("--start", type=Path, help="model, or run, that training begins from")
    parser.add_argument("--epsilon", type=float, help="this one alone, and without privacy")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds, epsilon 8 only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as drawn:
        root = arguments.data or draw(Path(drawn), quick=arguments.quick)
        measure(root, arguments)


def draw(folder: Path, *, quick: bool) -> Path:
    write_demo(folder, hospitals=8, patients=20 if quick else 150, seed=1, workers=2)
    return folder


if __name__ == "__main__":
    main()
