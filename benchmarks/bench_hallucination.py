"""What generated features are worth at classes that nobody trained on, with the same budget.

    python benchmarks/bench_hallucination.py [--data omniglot_28.npz] [--rounds 50] [--quick]

Three arms: a prototypical network (nothing generated), a generator trained through the classifier
alone (Wang et al. 2018), and a generator against a discriminator too.
Each is trained for as many rounds, on the same sites in the same order and on the same episodes,
with as many shots as the test has. The 600 5-way episodes of the test are the same for all, and
from sites that took no part.

With --data, an .npz of Omniglot (images (n, 28, 28) uint8, character and alphabet (n,), and
is_evaluation (n,)): an alphabet is a site; 30 background alphabets train, 20 evaluation alphabets
test, and each image is its own patient, for want of any. Without it, synthetic hospitals.

Per arm and shots: accuracy averaged over seeds, its mean over episodes and 95% interval; and the
difference to the first arm, paired by episode, likewise. The intervals cover neither another draw
of sites nor another training; how far the seeds are apart is given beside them.
"""

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.arrays import to_arrays, to_tensors
from metaward.episodes import sample_episode, usable_labels
from metaward.learner_settings import HallucinationSettings
from metaward.meta.compose import build_learner, initial_parameters
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import AdamSettings
from metaward.tasks import Task
from metaward.workers import WorkerPool
from metaward_client.site import load_site
from metaward_server.outer_optimizers import initial_state, outer_step
from metaward_sim.demo_data import write_demo

WAYS, QUERIES, SITES_PER_ROUND = 5, 5, 4
SHOTS = (1, 5)
OUTER = AdamSettings(step_size=3.0e-3)
ARMS: dict[str, dict[str, Any]] = {
    "none generated": {"n_generated": 0},
    "5 generated, weight 0": {"adversarial_weight": 0.0},
    "5 generated, weight 0.1": {"adversarial_weight": 0.1},
}


@dataclass(frozen=True)
class Job:
    """One training and its test."""

    arm: str
    shots: int
    seed: int
    rounds: int
    episodes: int
    data: str
    hospitals: str


def sites_of(job: Job) -> tuple[list[Task], list[Task], ModelSettings]:
    """Return the sites that train, those that test, and the body that suits."""
    if job.data:
        model = ModelSettings(image_size=28)
        train, test = omniglot(Path(job.data))
    else:
        model = ModelSettings(filters=16)
        folders = sorted(path for path in Path(job.hospitals).iterdir() if path.is_dir())
        tasks = [
            load_site(folder).load_task(image_size=model.image_size, channels=model.channels)
            for folder in folders
        ]
        train, test = tasks[:8], tasks[8:]
    return enough(train, job.shots), enough(test, job.shots), model


def enough(tasks: list[Task], shots: int) -> list[Task]:
    return [
        task for task in tasks if len(usable_labels(task, n_shot=shots, n_query=QUERIES)) >= WAYS
    ]


def omniglot(path: Path) -> tuple[list[Task], list[Task]]:
    with np.load(path) as content:
        images = content["images"][:, None].astype(np.float32) / 255.0
        character, alphabet = content["character"], content["alphabet"]
        held_out = content["is_evaluation"]
    sides: tuple[list[Task], list[Task]] = ([], [])
    for number in np.unique(alphabet):
        rows = np.flatnonzero(alphabet == number)
        names, labels = np.unique(character[rows], return_inverse=True)
        sides[int(held_out[rows[0]])].append(
            Task(
                site=f"alphabet-{number}",
                images=images[rows],
                labels=labels.astype(np.int64),
                patients=np.arange(len(rows)),
                label_names=tuple(str(name) for name in names),
            )
        )
    return sides


def run(job: Job) -> dict[str, Any]:
    """Train, then test; in a worker."""
    torch.set_num_threads(1)
    train, test, model = sites_of(job)
    settings = HallucinationSettings(
        n_way=WAYS, n_shot=job.shots, n_query=QUERIES, episodes=2, augment="none", **ARMS[job.arm]
    )
    body, learner = build_body(model, job.seed), build_learner(settings)
    theta = to_arrays(initial_parameters(model, settings, job.seed))
    state = initial_state(OUTER, theta)
    began = time.process_time()
    choice = np.random.default_rng([job.seed, 0])
    for round_index in range(job.rounds):
        start = to_tensors(theta)
        deltas = []
        for site in choice.permutation(len(train))[:SITES_PER_ROUND].tolist():
            rng = np.random.default_rng([job.seed, 1, round_index, site])
            deltas.append(to_arrays(learner.local_delta(body, start, train[site], rng).delta))
        mean = {name: np.mean([delta[name] for delta in deltas], axis=0) for name in theta}
        theta, state = outer_step(OUTER, state, theta, mean)
    trained = time.process_time() - began
    phi, rng, scores = to_tensors(theta), np.random.default_rng(2), []
    for index in range(job.episodes):
        site = test[index % len(test)]
        episode = sample_episode(site, n_way=WAYS, n_shot=job.shots, n_query=QUERIES, rng=rng)
        classify = learner.adapt(body, phi, episode.support)
        right = classify(episode.query.images).argmax(dim=1) == episode.query.labels
        scores.append(float(right.double().mean()))
    return {"arm": job.arm, "shots": job.shots, "seed": job.seed, "train_s": trained,
            "accuracy": float(np.mean(scores)), "scores": scores}  # fmt: skip


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean, and 1.96 standard errors."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per arm and shots, from episodes that are the same for all."""
    found: dict[tuple[str, int], list[list[float]]] = {}
    for result in results:
        found.setdefault((result["arm"], result["shots"]), []).append(result["scores"])
    by_episode = {key: np.mean(scores, axis=0) for key, scores in found.items()}
    rows = []
    for (arm, shots), values in by_episode.items():
        mean, half = interval(values)
        gain, gain_half = interval(values - by_episode[next(iter(ARMS)), shots])
        of_seeds = [float(np.mean(scores)) for scores in found[arm, shots]]
        rows.append(
            {"arm": arm, "shots": shots, "accuracy": mean, "half_width": half, "gain": gain,
             "gain_half_width": gain_half, "seeds": of_seeds}
        )  # fmt: skip
    return rows


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    table = Table("arm", "shots", "accuracy", "less the first arm", "seeds", title=title)
    for row in rows:
        first = row["arm"] == next(iter(ARMS))
        table.add_row(
            row["arm"],
            str(row["shots"]),
            f"{100 * row['accuracy']:.1f} ± {100 * row['half_width']:.1f}",
            "" if first else f"{100 * row['gain']:+.2f} ± {100 * row['gain_half_width']:.2f}",
            ", ".join(f"{100 * mean:.1f}" for mean in row["seeds"]),
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="an .npz of Omniglot")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds, 10 episodes, one seed")
    options = parser.parse_args()
    rounds, episodes, seeds = options.rounds, options.episodes, options.seeds
    if options.quick:
        rounds, episodes, seeds = 2, 10, 1
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            write_demo(Path(folder), hospitals=10, patients=24, workers=options.workers)
        jobs = [
            Job(arm, shots, seed, rounds, episodes, options.data, folder)
            for shots, seed, arm in itertools.product(SHOTS, range(seeds), ARMS)
        ]
        with WorkerPool(options.workers) as pool:
            results = list(pool.map(run, jobs))
    rows = summary(results)
    data = "Omniglot" if options.data else "synthetic hospitals"
    print_table(rows, f"{WAYS}-way accuracy (%) on {data}, {rounds} rounds, {episodes} episodes")
    kept = [{key: value for key, value in r.items() if key != "scores"} for r in results]
    save(__file__, {"data": data, "rounds": rounds, "episodes": episodes, "rows": rows,
                    "runs": kept})  # fmt: skip


if __name__ == "__main__":
    main()
