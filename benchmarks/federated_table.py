"""The federated table: learners over 50 clients of 2 to 5 characters, tried at 100 new clients.

    python benchmarks/federated_table.py --data omniglot [--quick] [--resume] [--rows fomaml,fedavg]
                                         [--seeds 1] [--workers 2] [--validate]

Trains each plan of `omniglot/federated_rows.py` and scores it at clients that took no part, with
characters that nobody trained on. Prints a table, and writes docs/results/federated.json (--quick:
federated-quick.json), from which scripts/update_readme.py makes a table in docs/paper-tables.md.
--validate scores at the clients that settings are chosen with, and writes to benchmarks/out.
--resume goes on after an interruption; without it, what an earlier run left is thrown away.
"""

import argparse
import shutil
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from figures import OUT, write
from metaward.arrays import Arrays
from metaward.workers import WorkerPool
from omniglot.characters import TRAINED_ON, load_characters
from omniglot.clients import federation, some_clients
from omniglot.federated_lines import lines_of
from omniglot.federated_rows import (
    BASELINE,
    CLIENTS_PER_ROUND,
    QUICK_ROUNDS,
    FederatedPlan,
    plans,
)
from omniglot.jobs import trained_and_scored
from omniglot.scoring import client_accuracies

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PRELOADED = ("torch", "metaward.meta.compose", "metaward_server.checkpoints")
TRAINING, VALIDATION, NEW = 50, 50, 100
"""Clients of each kind."""
EPISODES = 6
"""Draws of a support set at each client; its accuracy is their mean."""
N_QUERY = 10
"""Query images per class."""


@dataclass(frozen=True)
class Job:
    """One training and its scores; what a worker does."""

    plan: FederatedPlan
    data: Path
    validate: bool
    folder: Path


def run(job: Job) -> dict[str, Any]:
    """Train, then score; in a worker."""
    characters = load_characters(job.data)
    clients, validation, new = federation(
        characters, TRAINED_ON, training=TRAINING, validation=VALIDATION, new=NEW
    )
    scored_at, model = validation if job.validate else new, job.plan.training.study.model

    def score(theta: Arrays) -> dict[str, Any]:
        accuracies = {
            answer.title: {
                str(n_shot): client_accuracies(
                    model, answer.learner, theta, scored_at, n_shot,
                    episodes=EPISODES, n_query=N_QUERY,
                )
                for n_shot in job.plan.shots
            }
            for answer in job.plan.answers
        }  # fmt: skip
        return {"accuracies": accuracies}

    return trained_and_scored(
        job.plan.training,
        some_clients(clients),
        score,
        job.folder,
        plan=job.plan.name,
        answers=[answer.learner.model_dump(mode="json") for answer in job.plan.answers],
        clients=[len(clients), len(scored_at)],
        chance=[1 / len(client.label_names) for client in scored_at],
    )


def jobs_of(chosen: list[FederatedPlan], options: argparse.Namespace, work: Path) -> list[Job]:
    return [
        Job(
            replace(plan, training=plan.training.with_seed(seed)),
            options.data,
            options.validate,
            work / f"{plan.name}-{'-'.join(map(str, plan.shots))}-{seed}",
        )
        for plan in chosen
        for seed in range(options.seeds)
    ]


def chosen_plans(options: argparse.Namespace) -> list[FederatedPlan]:
    """Return the plans that were asked for, shortened where it shall be quick."""
    named = list(filter(None, options.rows.split(",")))
    chosen = [plan for plan in plans() if not named or plan.name in named]
    if not options.quick:
        return chosen
    return [replace(plan, training=plan.training.with_steps(QUICK_ROUNDS)) for plan in chosen]


def print_table(lines: list[dict[str, Any]]) -> None:
    table = Table("learner", "shots", "accuracy", f"against {BASELINE}", "CPU s")
    for line in lines:
        gain = line["gain"]
        against = "" if gain is None else f"{gain['accuracy']:+.2f} ± {gain['reach']:.2f}"
        cpu = " ".join(f"{seconds:.0f}" for seconds in line["cpu_s"])
        accuracy = f"{line['accuracy']:.2f} ± {line['reach']:.2f}"
        table.add_row(line["title"], str(line["shots"]), accuracy, against, cpu)
    Console().print(table)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Omniglot; docs/paper-tables.md")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption")
    parser.add_argument("--rows", default="", help="names of plans, by comma; default: all")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--validate", action="store_true", help="at the validation clients")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    names = list(dict.fromkeys(plan.name for plan in plans()))
    unknown = set(filter(None, options.rows.split(","))) - set(names)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    return options


def main() -> None:
    options = options_of()
    name = "federated-quick" if options.quick else "federated"
    name += "-validation" if options.validate else ""
    work = OUT / name
    if not options.resume:
        shutil.rmtree(work, ignore_errors=True)
    chosen = chosen_plans(options)
    began = time.monotonic()
    results = []
    with WorkerPool(options.workers, preload=PRELOADED) as pool:
        for result in pool.map(run, jobs_of(chosen, options, work)):
            results.append(result)
            print(f"{result['plan']}, seed {result['seed']}", flush=True)
    lines = lines_of(chosen, results)
    print_table(lines)
    of_clients = results[0]
    summary = {
        "training_clients": of_clients["clients"][0],
        "scored_clients": of_clients["clients"][1],
        "clients_per_round": CLIENTS_PER_ROUND,
        "validation": options.validate,
        "baseline": BASELINE,
        "chance": round(100 * statistics.fmean(of_clients["chance"]), 2),
        "draws_per_client": EPISODES,
        "query_images_per_class": N_QUERY,
        "seeds": options.seeds,
        "workers": options.workers,
        "wall_s": None if options.resume else round(time.monotonic() - began, 1),
        "cpu_s": round(sum(found["cpu_s"] + found["scoring_cpu_s"] for found in results), 1),
        "lines": lines,
    }
    write((OUT if options.validate else RESULTS) / f"{name}.json", summary)


if __name__ == "__main__":
    main()
