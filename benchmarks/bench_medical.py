"""Cross-domain: learn from some kinds of images, adapt to a kind that nobody has trained on.

    python benchmarks/bench_medical.py --data hospitals --domains blood chest mednist derm-a,derm-b

The folder holds hospitals as `metaward data import` writes them. A domain is one hospital, or
several that show the same kind of image. Each domain is left out in turn: all others train in a
federation, and every learner, at its default settings, adapts to 1, 5, 10 and 20 images per finding
of the domain that is left out. Beside them stand FedAvg with the server's Adam, a body that was not
trained at all, and what the literature says is hard to beat, a body trained by supervision on all
images in one place and then fine-tuned (Guo et al. 2020, arXiv:1912.07200). All see the same
episodes.

Without --data there are synthetic hospitals, each a domain of its own: they show that the benchmark
runs, not how well a learner does.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.arrays import Arrays, to_arrays, to_tensors
from metaward.episode_scores import Method
from metaward.evaluation import evaluate_site
from metaward.evaluation_design import EvaluationPlan
from metaward.learner_settings import FedAvgSettings, LearnerSettings
from metaward.meta.compose import build_learner
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import Study
from metaward.tasks import Task
from metaward.workers import WorkerPool
from metaward_client.site import load_site
from metaward_client.site_work import site_seed
from metaward_server.aggregation.compose import aggregate
from metaward_server.outer_optimizers import initial_state, outer_step
from metaward_server.study_run import initial_theta
from metaward_sim.demo_data import write_demo
from metaward_sim.pooled import pooled_task, train_pooled
from metaward_sim.scenario import FedAdamBaseline, Scenario

SHOTS = (1, 5, 10, 20)
FEDADAM = "FedAdam"
POOLED, UNTRAINED = "pooled + fine-tune", "untrained + fine-tune"
PRELOADED = ("torch", "metaward.evaluation", "metaward_client.site", "metaward_sim.pooled")
LEARNERS: dict[str, LearnerSettings] = {
    kind().TITLE: kind() for kind in get_args(get_args(LearnerSettings)[0])
}
"""Every learner of the library, at its defaults."""
ROWS = (*LEARNERS, FEDADAM, POOLED, UNTRAINED)
FINE_TUNED = FedAvgSettings()


@dataclass(frozen=True)
class Job:
    """One training, and its evaluation at the domain that is left out."""

    row: str
    root: str
    sites: tuple[str, ...]
    left_out: tuple[str, ...]
    model: ModelSettings
    rounds: int
    episodes: int
    seed: int

    def study(self) -> Study:
        """Return what a scenario takes for the row's learner where it leaves all open."""
        scenario = Scenario(
            name="bench",
            seed=self.seed,
            rounds=self.rounds,
            model=self.model,
            learner=LEARNERS.get(self.row, FINE_TUNED),
            outer=FedAdamBaseline().outer if self.row == FEDADAM else None,
        )
        return scenario.study()


def run(job: Job) -> dict[str, Any]:
    """Train, then measure; in a worker of its own."""
    torch.set_num_threads(1)
    began = time.process_time()
    theta = train(job)
    trained = time.process_time() - began
    study = job.study()
    method = Method("meta", job.row, study.model, study.learner, theta)
    plan = EvaluationPlan(SHOTS, 5, 8, job.episodes, seed=0)
    found = []
    for site in job.left_out:
        evaluation = evaluate_site(load_task(job, site), (method,), plan)
        for shots in evaluation.design.shots:
            estimate = evaluation.estimate("meta", shots)
            found.append(
                {"site": site, "shots": shots, "accuracy": estimate.mean,
                 "low": estimate.low, "high": estimate.high, "n_way": evaluation.design.n_way}
            )  # fmt: skip
    return {
        "row": job.row,
        "left_out": job.left_out,
        "rounds": job.rounds,
        "seed": job.seed,
        "training_cpu_seconds": round(trained, 1),
        "scores": found,
    }


def load_task(job: Job, site: str) -> Task:
    model = job.study().model
    loaded = load_site(Path(job.root) / site)
    return loaded.load_task(image_size=model.image_size, channels=model.channels)


def train(job: Job) -> Arrays:
    study = job.study()
    if job.row == UNTRAINED:
        return initial_theta(study)
    tasks = [load_task(job, site) for site in job.sites]
    if job.row == POOLED:
        steps = FINE_TUNED.local_steps * len(tasks)
        return train_pooled(study, pooled_task(tasks), steps, initial_theta(study))
    return federated(study, tasks)


def federated(study: Study, tasks: list[Task]) -> Arrays:
    """Return theta after the study's rounds, as a coordinator and its sites would."""
    body, learner = build_body(study.model, study.seed), build_learner(study.learner)
    theta = initial_theta(study)
    state = initial_state(study.outer, theta)
    for round_index in range(study.rounds):
        start, deltas = to_tensors(theta), []
        for task in tasks:
            seed = np.random.SeedSequence([*site_seed(study.seed, task.site), round_index])
            rng = np.random.default_rng(seed)
            deltas.append(to_arrays(learner.local_delta(body, start, task, rng).delta))
        theta, state = outer_step(study.outer, state, theta, aggregate(study.aggregation, deltas))
    return theta


def jobs_of(
    root: Path, domains: list[tuple[str, ...]], rows: Sequence[str], base: Job, seeds: int
) -> Iterator[Job]:
    for seed in range(seeds):
        for left_out in domains:
            others = tuple(site for domain in domains if domain != left_out for site in domain)
            for row in rows:
                yield replace(
                    base, row=row, root=str(root), sites=others, left_out=left_out, seed=seed
                )


def print_table(results: list[dict[str, Any]]) -> None:
    """Print the mean over sites and seeds of each domain, at 1 and 5 shots and all others."""
    means: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for result in results:
        for score in result["scores"]:
            key = (result["row"], "+".join(result["left_out"]), score["shots"])
            means[key].append(score["accuracy"])
    domains = list(dict.fromkeys(key[1] for key in means))
    table = Table("learner", *(f"{d}, {'/'.join(map(str, SHOTS))} shots" for d in domains))
    for row in dict.fromkeys(key[0] for key in means):
        cells = []
        for domain in domains:
            found = (means.get((row, domain, shots)) for shots in SHOTS)
            cells.append(" / ".join(f"{100 * np.mean(f):.1f}" if f else "-" for f in found))
        table.add_row(row, *cells)
    Console().print(table)


def measure(root: Path, domains: list[tuple[str, ...]], options: argparse.Namespace) -> None:
    base = Job(
        row="",
        root="",
        sites=(),
        left_out=(),
        model=ModelSettings(image_size=options.size, channels=options.channels),
        rounds=2 if options.quick else options.rounds,
        episodes=4 if options.quick else options.episodes,
        seed=0,
    )
    seeds = 1 if options.quick else options.seeds
    jobs = list(jobs_of(root, domains, options.rows, base, seeds))
    found: dict[str, Any] = {"model": base.model.model_dump(), "of": len(jobs), "runs": []}
    with WorkerPool(options.workers, preload=PRELOADED) as pool:
        for result in pool.map(run, jobs):
            found["runs"].append(result)
            save(__file__, found, quiet=True)  # all of them take an hour
            Console(stderr=True).print(result["left_out"], result["row"], result["seed"])
    print_table(found["runs"])
    save(__file__, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of hospitals; left out: synthetic ones")
    parser.add_argument(
        "--domains", nargs="+", help="hospitals of one domain joined by commas; left out: each one"
    )
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, metavar="LEARNER")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds, 4 episodes, one seed")
    options = parser.parse_args()
    if options.data is not None:
        names = options.domains or sorted(p.name for p in options.data.iterdir() if p.is_dir())
        measure(options.data, [tuple(name.split(",")) for name in names], options)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder), hospitals=3, patients=24, workers=options.workers)
        names = sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
        measure(Path(folder), [(name,) for name in names], options)


if __name__ == "__main__":
    main()
