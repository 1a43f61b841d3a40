"""One training of `bench_privacy.py`, with or without privacy, and its accuracy at new hospitals.

Every update goes through the same door, mechanism and ledger as at a hospital; only Flower is left
out.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Arrays
from metaward.episode_scores import Method
from metaward.evaluation import evaluate_site
from metaward.evaluation_design import EvaluationPlan
from metaward.intervals import Estimate
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.model_settings import ModelSettings
from metaward.start_model import begun_from
from metaward.study import OuterSettings, Study
from metaward.tasks import Task
from metaward_client.privacy.noise import os_noise
from metaward_client.privacy.policy import read_policy_file
from metaward_client.privacy.release import AskedRound, release
from metaward_client.site import load_site
from metaward_client.site_work import site_seed
from metaward_server.aggregation.compose import aggregate
from metaward_server.outer_optimizers import initial_state, outer_step
from metaward_server.study_run import initial_theta
from metaward_sim.privacy_choice import PrivacyChoice
from metaward_sim.privacy_of_run import policies_of, set_up, statements, weakest
from metaward_sim.recommended import recommended_outer

NEAREST_MEAN = AdaptSettings(head="prototypes", steps=0)
SHOTS = 5
LR = 0.3
RATE = 0.3
"""q of both mechanisms."""


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
            own = task.without_patients() if job.noise_only else task
            deltas.append(release(asked, lambda own=own: own, policies[name], source).update.delta)
        theta, state = outer_step(study.outer, state, theta, aggregate(study.aggregation, deltas))
    return theta, weakest(statements(files).values()).model_dump(mode="json") | noise


def estimate(task: Task, method: Method, plan: EvaluationPlan) -> Estimate:
    """Return the accuracy at one site."""
    evaluation = evaluate_site(task, (method,), plan, lambda work, jobs: map(work, jobs))
    return evaluation.estimate("meta", SHOTS)
