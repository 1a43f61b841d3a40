"""How long a learner takes for one site and round, beside a plain PyTorch loop of the same work.

    python benchmarks/bench_learners.py [--quick] [--repeats N]

CPU seconds on one thread, median over repeats; ours and the plain loop take turns in one worker
process of the kind that trains in a simulation. Both start from the same float16 images: rows are
taken, standardised and used once. There is no augmentation on either side. The plain loops are
written with nn.Sequential, copy.deepcopy and torch.optim.SGD, as one would write them by hand.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from figures import save
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta.compose import build_learner
from metaward.models.body import build_body
from metaward.study import ModelSettings
from metaward.tasks import STANDARDISE_FLOOR, Task
from metaward.workers import WorkerPool

N_WAY, N_QUERY, EPISODES, SIZE = 5, 5, 4, 32
PATIENTS_PER_LABEL, IMAGES_PER_PATIENT = 24, 2
SCALE_OF_DISTANCES = -0.5
"""Exponent of the number of features; see metaward.meta.prototypical."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    learner: LearnerSettings
    filters: int
    shots: int | None


def cases(filters: tuple[int, ...], shots: tuple[int, ...]) -> list[Case]:
    found: list[Case] = []
    for width in filters:
        for n_shot in shots:
            episodic: dict[str, Any] = {
                "n_way": N_WAY,
                "n_shot": n_shot,
                "episodes": EPISODES,
                "augment": "none",
            }
            found += [
                Case(PrototypicalSettings(n_query=N_QUERY, **episodic), width, n_shot),
                Case(FomamlSettings(n_query=N_QUERY, inner_steps=3, **episodic), width, n_shot),
                Case(ReptileSettings(inner_steps=5, inner_batch=10, **episodic), width, n_shot),
            ]
        found.append(Case(FedAvgSettings(augment="none"), width, None))
    return found


def measure(case: Case, repeats: int) -> tuple[list[float], list[float]]:
    """Run in a worker: CPU seconds of our delta, and of the plain loop."""
    model = ModelSettings(filters=case.filters, image_size=SIZE)
    body, learner, task = build_body(model, 0), build_learner(case.learner), random_task()
    theta = body.initial_parameters()
    network = plain_network(model)
    plain = PLAIN[case.learner.name]
    rng = np.random.default_rng(0)

    def ours() -> None:
        learner.local_delta(body, theta, task, rng)

    def by_hand() -> None:
        plain(network, task, case.learner, rng)

    ours()  # warm up
    by_hand()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, work in zip(taken, (ours, by_hand), strict=True):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
    return taken


def random_task() -> Task:
    rng = np.random.default_rng(1)
    n_patients = N_WAY * PATIENTS_PER_LABEL
    patients = np.repeat(np.arange(n_patients), IMAGES_PER_PATIENT)
    images = rng.random((len(patients), 1, SIZE, SIZE), dtype=np.float32).astype(np.float16)
    return Task(
        site="benchmark",
        images=images,
        labels=(patients % N_WAY).astype(np.int64),
        patients=patients.astype(np.int64),
        label_names=tuple("abcde"),
    )


# --- the same work by hand -------------------------------------------------------------------


def plain_network(model: ModelSettings) -> nn.Sequential:
    layers: list[nn.Module] = []
    fan_in: int = model.channels
    for _ in range(4):
        layers += [
            nn.Conv2d(fan_in, model.filters, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(model.groups, model.filters),
            nn.ReLU(),
        ]
        fan_in = model.filters
    network = nn.Sequential(*layers, nn.Flatten())
    return network.to(memory_format=torch.channels_last)


def plain_batch(task: Task, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(task.images[rows].astype(np.float32))
    std, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    images = (images - mean) / std.clamp_min(STANDARDISE_FLOOR)
    return images.contiguous(memory_format=torch.channels_last), torch.from_numpy(task.labels[rows])


def plain_rows(task: Task, per_class: int, rng: np.random.Generator) -> Rows:
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(task.labels == label), per_class, replace=False)
            for label in range(N_WAY)
        ]
    )


def plain_head(features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    centres = torch.stack([features[labels == label].mean(dim=0) for label in range(N_WAY)])
    scale = features.shape[1] ** SCALE_OF_DISTANCES
    return 2 * scale * centres, -scale * centres.square().sum(dim=1)


def plain_prototypical(
    network: nn.Sequential, task: Task, s: PrototypicalSettings, rng: np.random.Generator
) -> None:
    network.zero_grad()
    for _ in range(s.episodes):
        rows = plain_rows(task, s.n_shot + s.n_query, rng).reshape(N_WAY, -1)
        support, query = rows[:, : s.n_shot].ravel(), rows[:, s.n_shot :].ravel()
        images, labels = plain_batch(task, np.concatenate([support, query]))
        features = network(images)
        n = len(support)
        weight, bias = plain_head(features[:n], labels[:n])
        loss = F.cross_entropy(F.linear(features[n:], weight, bias), labels[n:])
        (loss / s.episodes).backward()


def plain_fomaml(
    network: nn.Sequential, task: Task, s: FomamlSettings, rng: np.random.Generator
) -> None:
    network.zero_grad()
    for _ in range(s.episodes):
        rows = plain_rows(task, s.n_shot + s.n_query, rng).reshape(N_WAY, -1)
        images, labels = plain_batch(task, rows[:, : s.n_shot].ravel())
        query, query_labels = plain_batch(task, rows[:, s.n_shot :].ravel())
        first = plain_head(network(images), labels)
        adapted = copy.deepcopy(network)
        head = [part.detach().clone().requires_grad_() for part in first]
        optimiser = torch.optim.SGD([*adapted.parameters(), *head], lr=s.inner_lr)
        for _ in range(s.inner_steps):
            optimiser.zero_grad()
            F.cross_entropy(F.linear(adapted(images), *head), labels).backward()
            optimiser.step()
        optimiser.zero_grad()
        F.cross_entropy(F.linear(adapted(query), *head), query_labels).backward()
        torch.autograd.backward(list(first), [part.grad for part in head])  # the head's own road
        for leaf, moved in zip(network.parameters(), adapted.parameters(), strict=True):
            leaf.grad = moved.grad if leaf.grad is None else leaf.grad + moved.grad


def plain_reptile(
    network: nn.Sequential, task: Task, s: ReptileSettings, rng: np.random.Generator
) -> None:
    total = [torch.zeros_like(leaf) for leaf in network.parameters()]
    for _ in range(s.episodes):
        images, labels = plain_batch(task, plain_rows(task, s.n_shot, rng))
        add_difference(total, network, images, labels, plain_steps(s, len(labels), rng), s.inner_lr)


def plain_steps(s: ReptileSettings, n: int, rng: np.random.Generator) -> list[Rows]:
    size = min(s.inner_batch, n)
    order = np.concatenate([rng.permutation(n) for _ in range(s.inner_steps * size // n + 1)])
    return [order[step * size : (step + 1) * size] for step in range(s.inner_steps)]


def add_difference(
    total: list[torch.Tensor],
    network: nn.Sequential,
    images: torch.Tensor,
    labels: torch.Tensor,
    steps: list[Rows],
    lr: float,
) -> None:
    with torch.no_grad():
        first = plain_head(network(images), labels)
    adapted = copy.deepcopy(network)
    head = [part.clone().requires_grad_() for part in first]
    optimiser = torch.optim.SGD([*adapted.parameters(), *head], lr=lr)
    for rows in steps:
        optimiser.zero_grad()
        F.cross_entropy(F.linear(adapted(images[rows]), *head), labels[rows]).backward()
        optimiser.step()
    with torch.no_grad():
        for leaf, moved, old in zip(total, adapted.parameters(), network.parameters(), strict=True):
            leaf += moved - old


def plain_fedavg(
    network: nn.Sequential, task: Task, s: FedAvgSettings, rng: np.random.Generator
) -> None:
    with torch.no_grad():
        images, labels = plain_batch(task, plain_rows(task, 10, rng))
        first = plain_head(network(images), labels)
    adapted = copy.deepcopy(network)
    head = [part.clone().requires_grad_() for part in first]
    optimiser = torch.optim.SGD([*adapted.parameters(), *head], lr=s.local_lr)
    for _ in range(s.local_steps):
        rows = rng.choice(task.n_images, s.batch_size, replace=False)
        images, labels = plain_batch(task, rows)
        optimiser.zero_grad()
        F.cross_entropy(F.linear(adapted(images), *head), labels).backward()
        optimiser.step()
    with torch.no_grad():
        for moved, old in zip(adapted.parameters(), network.parameters(), strict=True):
            moved -= old


# Any: each loop takes the settings of its own learner.
PLAIN: dict[str, Callable[[nn.Sequential, Task, Any, np.random.Generator], None]] = {
    "prototypical": plain_prototypical,
    "fomaml": plain_fomaml,
    "reptile": plain_reptile,
    "fedavg": plain_fedavg,
}


# --- results ---------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="32 filters, 5 shots, 5 repeats")
    options = parser.parse_args()
    chosen = cases((32,), (5,)) if options.quick else cases((32, 64), (1, 5))
    repeats = min(options.repeats, 5) if options.quick else options.repeats

    rows: list[dict[str, Any]] = []
    with WorkerPool(1) as pool:
        for case in chosen:
            ours, plain = pool.submit(measure, case, repeats).result()
            a, b = statistics.median(ours), statistics.median(plain)
            rows.append(
                {
                    "learner": case.learner.name,
                    "filters": case.filters,
                    "shots": case.shots,
                    "cpu_seconds": a,
                    "plain_cpu_seconds": b,
                    "ratio": a / b,
                }
            )
    table = Table(
        "learner", "filters", "shots", "ms", "plain loop, ms", "ratio",
        title="One site's work in one round: CPU time on one thread",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["learner"],
            str(row["filters"]),
            "all labels" if row["shots"] is None else str(row["shots"]),
            f"{1e3 * row['cpu_seconds']:.1f}",
            f"{1e3 * row['plain_cpu_seconds']:.1f}",
            f"{row['ratio']:.2f}",
        )
    Console().print(table)
    setting = {
        "n_way": N_WAY,
        "n_query": N_QUERY,
        "episodes": EPISODES,
        "image_size": SIZE,
        "repeats": repeats,
    }
    save(__file__, {"setting": setting, "rows": rows})


if __name__ == "__main__":
    main()
