"""The papers' tables: every learner on Omniglot, beside what its paper reports.

    python benchmarks/paper_tables.py --data omniglot [--quick] [--resume] [--rows prototypical,...]
                                      [--seeds 1] [--times 1] [--split vinyals] [--workers 2]
                                      [--device cuda]

Trains each row of `omniglot/rows.py` in one place and scores it on episodes of characters that
nobody trained on. Prints a table, and writes docs/results/omniglot.json (--quick:
omniglot-quick.json), from which scripts/update_readme.py makes docs/paper-tables.md. Trainings run
one per core and in one thread each: a seed gives the same bits however many run at once. --resume
goes on after an interruption; without it, what an earlier run left is thrown away.
"""

import argparse
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from figures import OUT, device_name, write
from metaward.arrays import Arrays
from metaward.device import device_of
from metaward.learner_settings import FedAvgSettings
from metaward.tasks import CPU
from metaward.workers import WorkerPool
from omniglot.characters import Split, load_characters
from omniglot.episodes import both_sides, drawn_tasks, whole_task
from omniglot.jobs import trained_and_scored
from omniglot.lines import figure_text, lines_of
from omniglot.recipe import Plan, Row
from omniglot.rows import ROWS
from omniglot.scoring import episode_accuracies
from omniglot.training import Training

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PRELOADED = ("torch", "metaward.meta.compose", "metaward_server.checkpoints")
EPISODES = 600
"""Test episodes of each column, as Finn et al. 2017 take; Snell et al. 2017 take 1,000."""
N_QUERY = 10
"""Query images per class."""


@dataclass(frozen=True)
class Job:
    """One training and its scores; what a worker does."""

    row: str
    plan: Plan
    data: Path
    split: Split
    episodes: int
    folder: Path
    device: str


def run(job: Job) -> dict[str, Any]:
    """Train, then score; in a worker."""
    study, device = job.plan.training.study, device_of(job.device)
    assert not isinstance(study.learner, FedAvgSettings)  # which has no episodes
    characters = load_characters(job.data)
    train_on, test_on = both_sides(characters, characters.cut(job.split))

    pool = study.learner.n_way * study.learner.episodes
    tasks = drawn_tasks(train_on, pool) if device == CPU else whole_task(train_on, device)

    def score(theta: Arrays) -> dict[str, Any]:
        accuracies = {
            str(column): episode_accuracies(
                study, theta, test_on, column, episodes=job.episodes, n_query=N_QUERY, device=device
            )
            for column in job.plan.columns
        }
        return {"accuracies": accuracies}

    return trained_and_scored(
        job.plan.training,
        tasks,
        score,
        job.folder,
        device,
        row=job.row,
        episodes=job.episodes,
    )


def jobs_of(rows: Iterable[Row], options: argparse.Namespace, work: Path) -> list[Job]:
    """Return the jobs, those that may take longest first, so that the cores end together."""
    times = f"-{options.times}-times" if options.times > 1 else ""
    found = [
        Job(
            row.name,
            replace(plan, training=asked_for(plan.training.with_seed(seed), options)),
            options.data,
            options.split,
            options.episodes,
            work / (f"{options.split}-{row.name}-{number}-{seed}" + times),
            options.device,
        )
        for row in rows
        for number, plan in enumerate(row.quick if options.quick else row.full)
        for seed in range(options.seeds)
    ]
    return sorted(found, key=lambda job: -job.plan.training.budget_s)


def asked_for(training: Training, options: argparse.Namespace) -> Training:
    """Return the training as long as the options say."""
    longer = training.with_steps(options.times * training.study.rounds)
    seconds = options.times * training.budget_s if options.seconds is None else options.seconds
    return longer.model_copy(update={"budget_s": seconds})


def print_table(lines: list[dict[str, Any]]) -> None:
    table = Table(
        "learner", "setting", "ours", "published", "steps", "seconds", title="Omniglot, %"
    )
    for line in lines:
        beside = ", ".join(f"{figure_text(p)} {p['verdict']}" for p in line["published"])
        cost = " ".join(f"{seconds:.0f}" for seconds in line.get("cpu_s", line.get("device_s")))
        steps = f"{min(line['steps'])} of {line['planned_steps']}"
        table.add_row(line["title"], line["column"], figure_text(line), beside, steps, cost)
    Console().print(table)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Omniglot; docs/paper-tables.md")
    parser.add_argument("--quick", action="store_true", help="15 minutes on two cores")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption")
    parser.add_argument("--rows", default="", help="names of rows, by comma; default: all")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--times", type=at_least_one, default=1, help="outer steps, times this")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="test episodes of a column")
    parser.add_argument("--split", choices=("vinyals", "background"), default="vinyals")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="such as cuda; see docs/paper-tables.md")
    parser.add_argument("--seconds", type=float, help="after which a training ends anyway")
    parser.add_argument("--out", type=Path, help="JSON; default: in docs/results")
    options = parser.parse_args(arguments)
    unknown = set(filter(None, options.rows.split(","))) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are: "
                     + ", ".join(row.name for row in ROWS))  # fmt: skip
    return options


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, which is below 1")
    return number


def main() -> None:
    options = options_of()
    name = "omniglot-quick" if options.quick else "omniglot"
    rows = [row for row in ROWS if not options.rows or row.name in options.rows.split(",")]
    jobs = jobs_of(rows, options, OUT / name)
    if not options.resume:
        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    said = {
        "split": options.split,
        "seeds": options.seeds,
        "query_images_per_class": N_QUERY,
        "workers": options.workers,
        "device": device_name(options.device),
    }
    out, lines = options.out or RESULTS / f"{name}.json", []
    with WorkerPool(options.workers, preload=PRELOADED) as pool:
        for result in pool.map(run, jobs):  # written as they come: hours of work
            results.append(result)
            print(f"{result['row']}, seed {result['seed']}: {result['steps']} steps", flush=True)
            lines = table_lines(rows, results)
            wall_s = None if options.resume else round(time.monotonic() - began, 1)
            write(
                out, said | {"wall_s": wall_s} | cpu_seconds(results) | {"lines": lines}, quiet=True
            )
    print_table(lines)
    Console().print(f"Written: {out}", soft_wrap=True)


def table_lines(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of the trainings that have ended."""
    return [
        line
        for row in rows
        for line in lines_of(row, [found for found in results if found["row"] == row.name])
    ]


def cpu_seconds(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what all of it took; on an accelerator the processor only waits, and nothing."""
    if not all("cpu_s" in found for found in results):
        return {}
    return {"cpu_s": round(sum(found["cpu_s"] + found["scoring_cpu_s"] for found in results), 1)}


if __name__ == "__main__":
    main()
