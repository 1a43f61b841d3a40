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
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from figures import save, saved
from metaward.model_artefact import load_card
from metaward.provenance import commit
from metaward.run_directory import model_folder
from metaward.study import ADAM_FOR_SHORT
from metaward.workers import WorkerPool
from metaward_sim.demo_data import write_demo
from metaward_sim.recommended import recommended_outer
from private_training import Job, rows, run

EPSILONS = (None, 8.0, 3.0, 1.0)
PRELOADED = ("torch", "metaward_client.privacy.release", "metaward_sim.privacy_of_run")


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
    """Run all jobs; the figures are written after each, because all of them take hours."""
    jobs = jobs_of(root, arguments)
    name = f"bench_{arguments.name}.py" if arguments.name else __file__
    said: dict[str, Any] = {"of": len(jobs), "setting": setting_of(arguments), "runs": []}
    if jobs[0].start is not None:
        said["start_sha256"] = load_card(jobs[0].start).parameters_sha256
    if arguments.resume:
        said["runs"] = runs_to_keep(saved(name), said, jobs)
    kept = {job_of(result) for result in said["runs"]}
    with WorkerPool(arguments.workers, preload=PRELOADED) as pool:
        for result in pool.map(run, [job for job in jobs if key_of(job) not in kept]):
            said["runs"].append(result)
            save(name, said, quiet=True)
            Console(stderr=True).print(result["learner"], result["mechanism"], result["accuracy"])
    print_table(said["runs"])
    save(name, said)


def setting_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what all jobs share, as JSON has it."""
    shared = ("data", "held_out", "size", "channels", "episodes", "start", "quick")
    return {key: arguments.__dict__[key] and str(arguments.__dict__[key]) for key in shared}


def runs_to_keep(
    content: dict[str, Any] | None, said: dict[str, Any], jobs: Sequence[Job]
) -> list[dict[str, Any]]:
    """Return the runs of an interrupted benchmark that are among these jobs.

    Raises:
        SystemExit: They are of another commit, data, model or evaluation.
    """
    if content is None:
        return []
    before = content["results"]
    for what, found, expected in (
        ("commit", content["commit"], commit()),
        ("setting", before.get("setting"), said["setting"]),
        ("start", before.get("start_sha256"), said.get("start_sha256")),
    ):
        if found != expected:
            raise SystemExit(
                f"--resume: the file's {what} is {found}; expected {expected}; take another --name,"
                " or leave out --resume to write it anew"
            )
    asked = {key_of(job) for job in jobs}
    return [result for result in before["runs"] if job_of(result) in asked]


Key = tuple[Any, ...]  # Any: names, numbers and None


def key_of(job: Job) -> Key:
    """Return what tells a job from the others."""
    if not job.rounds:
        return (0, job.seed)
    row = job.row
    told = (row.learner.name, row.mechanism, row.filters, row.sums, job.epsilon, job.noise_only)
    return (job.rounds, job.seed, *told, json.dumps(job.outer.model_dump()))


def job_of(result: dict[str, Any]) -> Key:
    """Return the same of a job that has run."""
    if not result["rounds"]:
        return (0, result["seed"])
    keys = ("learner", "mechanism", "filters", "sums", "target_epsilon", "noise_only")
    told = (result[key] for key in keys)
    return (result["rounds"], result["seed"], *told, json.dumps(result["outer"]))


def print_table(results: list[dict[str, Any]]) -> None:
    """Print the mean over seeds of everything that was trained."""
    found: dict[Key, list[float]] = defaultdict(list)
    for r in results:
        if r["rounds"]:
            step = f"{r['outer']['name']} {r['outer']['step_size']:g}"
            key = (r["learner"], r["mechanism"], r["target_epsilon"], step)
            found[*key, r["noise_only"]].append(r["accuracy"])
    untrained = np.mean([r["accuracy"] for r in results if not r["rounds"]])
    table = Table(title=f"5-shot accuracy, mean over seeds; untrained {untrained:.1%}")
    for heading in ("learner", "mechanism", "epsilon", "server's step", "accuracy", "noise alone"):
        table.add_column(heading)
    for (learner, mechanism, epsilon, step, noise_only), accuracies in found.items():
        if noise_only:
            continue
        control = found.get((learner, mechanism, epsilon, step, True))
        table.add_row(
            learner,
            mechanism,
            "none" if epsilon is None else f"{epsilon:g}",
            step,
            f"{np.mean(accuracies):.1%}",
            "" if control is None else f"{np.mean(control):.1%}",
        )
    Console().print(table)


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
    parser.add_argument("--resume", action="store_true", help="keep what the file has already")
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
