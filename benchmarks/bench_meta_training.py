"""How long a meta-batch takes, beside the same work by hand and by other libraries.

    python benchmarks/bench_meta_training.py [--quick] [--repeats N]

One meta-batch of 5-way episodes with 15 queries per class on a Conv-4 with max-pooling, 28 x 28
pixels, a head of zeros, 5 inner steps: the setting that papers and peers have. The peers' network
is what one writes: convolution, GroupNorm, ReLU, pool, in torch's default layout. Ours is the body
of the library with the same weights. Before anything is timed, both must give the same
meta-gradient; it is computed in float64 for that.

CPU seconds on one thread, median over repeats; all take turns in one process. The ratio is that of
the best peer: above 1 we are faster. `higher` and `torchopt` take part where they are installed
(extra `peers`).
"""

import argparse
import copy
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from figures import save
from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import (
    AdaptSettings,
    FomamlSettings,
    MamlSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta import fomaml, maml, prototypical, reptile
from metaward.meta.learner import LocalResult
from metaward.meta.meta_batch import TaskExamples, mean_over_episodes, mean_over_tasks
from metaward.models.body import Body, build_body
from metaward.study import ModelSettings
from metaward.workers import WorkerPool

N_WAY, N_QUERY, SIZE, META_BATCH = 5, 15, 28, 4
STEPS, LR, REPTILE_BATCH = 5, 0.4, 10
ZEROS = AdaptSettings(head="zeros")
SAME = 1e-8
"""Relative difference of two float64 meta-gradients that are the same."""

Gradient: TypeAlias = list[torch.Tensor]
"""The mean delta over the meta-batch, in the order of the body's leaves."""
Work: TypeAlias = Callable[[], Gradient]


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    learner: str
    filters: int
    shots: int


def episodes_of(case: Case, meta_batch: int = META_BATCH, device: str = "cpu") -> list[Episode]:
    generator = torch.Generator().manual_seed(0)

    def examples(per_class: int) -> Examples:
        labels = torch.arange(N_WAY).repeat_interleave(per_class)
        images = torch.randn(len(labels), 1, SIZE, SIZE, generator=generator)
        return Examples(images.to(device), labels.to(device), N_WAY)

    queries = np.arange(N_WAY * N_QUERY)
    return [Episode(examples(case.shots), examples(N_QUERY), queries) for _ in range(meta_batch)]


def in_float64(episodes: list[Episode]) -> list[Episode]:
    return [
        replace(
            episode,
            support=replace(episode.support, images=episode.support.images.double()),
            query=replace(episode.query, images=episode.query.images.double()),
        )
        for episode in episodes
    ]


# --- ours --------------------------------------------------------------------------------------


def ours(case: Case, body: Body, episodes: list[Episode], at_once: int | None = None) -> Work:
    theta = body.initial_parameters()
    work = OURS[case.learner]

    def run() -> Gradient:
        return list(work(body, theta, episodes, at_once).delta.values())

    return run


def our_reptile(
    body: Body, theta: Tensors, episodes: list[Episode], at_once: int | None
) -> LocalResult:
    settings = ReptileSettings(
        inner_steps=STEPS, inner_lr=LR, inner_batch=REPTILE_BATCH, augment="none", adapt=ZEROS
    )
    rng = np.random.default_rng(0)
    tasks = [(e.support, *reptile.drawn_batches(e.support, settings, rng)) for e in episodes]

    def delta_of(leaves: Tensors, own: TaskExamples) -> LocalResult:
        return reptile.moved(body, leaves, own[0], own[1:], settings)

    return mean_over_tasks(body, theta, tasks, delta_of, at_once=at_once)


def episodic(work: Any, settings: Any, *, apart: bool = True) -> Callable[..., LocalResult]:
    """Return what a learner with a ``task_delta`` does with a meta-batch."""

    def run(
        body: Body, theta: Tensors, episodes: list[Episode], at_once: int | None
    ) -> LocalResult:
        def delta_of(leaves: Tensors, episode: Episode) -> LocalResult:
            found: LocalResult = work(body, leaves, episode, settings)
            return found

        return mean_over_episodes(body, theta, episodes, delta_of, apart=apart, at_once=at_once)

    return run


OURS: dict[str, Callable[..., LocalResult]] = {
    "prototypical": episodic(prototypical.task_delta, PrototypicalSettings(), apart=False),
    "reptile": our_reptile,
    "fomaml": episodic(
        fomaml.task_delta, FomamlSettings(inner_steps=STEPS, inner_lr=LR, adapt=ZEROS)
    ),
    "maml": episodic(maml.task_delta, MamlSettings(inner_steps=STEPS, inner_lr=LR, adapt=ZEROS)),
}


# --- by hand -----------------------------------------------------------------------------------


def plain_network(case: Case, body: Body) -> nn.Sequential:
    """Return the usual layers in the usual order, with the body's weights; then a linear head."""
    layers: list[nn.Module] = []
    fan_in = 1
    for _ in range(4):
        layers += [
            nn.Conv2d(fan_in, case.filters, 3, padding=1, bias=False),
            nn.GroupNorm(4, case.filters),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        fan_in = case.filters
    head = nn.Linear(body.features, N_WAY)  # all of it moves to the body's device below
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network = nn.Sequential(*layers, nn.Flatten(), head).to(next(body.parameters()))
    own = body.initial_parameters()
    with torch.no_grad():
        for block in range(4):
            layers[4 * block].weight.copy_(own[f"convs.{block}.weight"])
    return network


def in_our_order(gradients: list[torch.Tensor], scale: float) -> Gradient:
    """Return the body's part, all convolutions first and then all norms, as the library has it."""
    blocks = [gradients[3 * block : 3 * block + 3] for block in range(4)]
    return [scale * one[0] for one in blocks] + [scale * leaf for one in blocks for leaf in one[1:]]


def summed(totals: list[torch.Tensor] | None, more: list[torch.Tensor]) -> list[torch.Tensor]:
    return more if totals is None else [a + b for a, b in zip(totals, more, strict=True)]


def loss_of(network: Any, examples: Examples) -> torch.Tensor:  # Any: a module, or one of a peer's
    return F.cross_entropy(network(examples.images), examples.labels)


def by_hand_prototypical(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    layers = network[:-1]
    layers.zero_grad()
    for episode in episodes:
        support, query = episode.support, episode.query
        features = layers(torch.cat([support.images, query.images]))
        n = len(support.labels)
        centres = torch.stack(
            [features[:n][support.labels == label].mean(dim=0) for label in range(N_WAY)]
        )
        distances = torch.cdist(features[n:], centres).square() / features.shape[1] ** 0.5
        (F.cross_entropy(-distances, query.labels) / len(episodes)).backward()
    return in_our_order([leaf.grad for leaf in layers.parameters()], -1.0)


def by_hand_reptile(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    total, rng = None, np.random.default_rng(0)
    for episode in episodes:
        adapted = copy.deepcopy(network)
        optimiser = torch.optim.SGD(adapted.parameters(), lr=LR)
        waiting = np.empty(0, dtype=np.int64)
        for _ in range(STEPS):
            size = min(REPTILE_BATCH, len(episode.support.labels))
            if len(waiting) < size:
                waiting = np.concatenate([waiting, rng.permutation(len(episode.support.labels))])
            rows, waiting = waiting[:size], waiting[size:]
            optimiser.zero_grad()
            logits = adapted(episode.support.images[rows])
            F.cross_entropy(logits, episode.support.labels[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            pairs = zip(adapted.parameters(), network.parameters(), strict=True)
            total = summed(total, [moved - old for moved, old in pairs])
    return in_our_order(total or [], 1 / len(episodes))


def by_hand_fomaml(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    total = None
    for episode in episodes:
        adapted = copy.deepcopy(network)
        optimiser = torch.optim.SGD(adapted.parameters(), lr=LR)
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss_of(adapted, episode.support).backward()
            optimiser.step()
        optimiser.zero_grad()
        loss_of(adapted, episode.query).backward()
        total = summed(total, [leaf.grad for leaf in adapted.parameters()])
    return in_our_order(total or [], -1 / len(episodes))


def by_hand_maml(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    total = None
    names = [name for name, _ in network.named_parameters()]
    for episode in episodes:
        start = [leaf.detach().requires_grad_() for leaf in network.parameters()]

        def at(leaves: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
            named = dict(zip(names, leaves, strict=True))
            return lambda images: torch.func.functional_call(network, named, (images,))

        phi = start
        for _ in range(STEPS):
            gradients = torch.autograd.grad(
                loss_of(at(phi), episode.support), phi, create_graph=True
            )
            phi = [leaf - LR * gradient for leaf, gradient in zip(phi, gradients, strict=True)]
        total = summed(total, list(torch.autograd.grad(loss_of(at(phi), episode.query), start)))
    return in_our_order(total or [], -1 / len(episodes))


# --- by other libraries ------------------------------------------------------------------------


def by_higher(network: nn.Sequential, episodes: list[Episode], *, second_order: bool) -> Gradient:
    import higher

    total = None
    inner = torch.optim.SGD(network.parameters(), lr=LR)
    for episode in episodes:
        with higher.innerloop_ctx(
            network, inner, copy_initial_weights=False, track_higher_grads=second_order
        ) as (adapted, optimiser):
            for _ in range(STEPS):
                optimiser.step(loss_of(adapted, episode.support))
            loss = loss_of(adapted, episode.query)
            where = adapted.parameters(time=0 if second_order else -1)
            total = summed(total, list(torch.autograd.grad(loss, list(where))))
    return in_our_order(total or [], -1 / len(episodes))


def by_torchopt(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    import torchopt

    total = None
    inner = torchopt.MetaSGD(network, lr=LR)
    start = list(network.parameters())
    kept = torchopt.extract_state_dict(network, by="reference")
    kept_inner = torchopt.extract_state_dict(inner, by="reference")
    for episode in episodes:
        for _ in range(STEPS):
            inner.step(loss_of(network, episode.support))
        loss = loss_of(network, episode.query)
        total = summed(total, list(torch.autograd.grad(loss, start)))
        torchopt.recover_state_dict(network, kept)
        torchopt.recover_state_dict(inner, kept_inner)
    return in_our_order(total or [], -1 / len(episodes))


PEERS = ("higher", "torchopt")


def peers(case: Case, body: Body, episodes: list[Episode]) -> dict[str, Work]:
    """Return who else does this work here."""
    by_hand = {
        "prototypical": by_hand_prototypical,
        "reptile": by_hand_reptile,
        "fomaml": by_hand_fomaml,
        "maml": by_hand_maml,
    }[case.learner]
    own = plain_network(case, body)
    found: dict[str, Work] = {"by hand": lambda: by_hand(own, episodes)}
    if case.learner in ("fomaml", "maml") and importlib.util.find_spec("higher"):
        second, its = case.learner == "maml", plain_network(case, body)
        found["higher"] = lambda: by_higher(its, episodes, second_order=second)
    if case.learner == "maml" and importlib.util.find_spec("torchopt"):
        theirs = plain_network(case, body)
        found["torchopt"] = lambda: by_torchopt(theirs, episodes)
    return found


# --- measuring ---------------------------------------------------------------------------------


def model_of(case: Case) -> ModelSettings:
    return ModelSettings(filters=case.filters, image_size=SIZE, downsample="pool", groups=4)


def require_same_work(case: Case) -> None:
    """Compare all meta-gradients in float64, where no rounding can hide another algorithm."""
    body = build_body(model_of(case), 0).double()
    episodes = in_float64(episodes_of(case))
    torch.set_default_dtype(torch.float64)
    try:
        expected = torch.cat([leaf.flatten() for leaf in ours(case, body, episodes)()])
        for name, work in peers(case, body, episodes).items():
            found = torch.cat([leaf.flatten() for leaf in work()])
            difference = float((found - expected).norm() / expected.norm())
            if not difference < SAME:
                raise AssertionError(f"{case}: {name} differs by {difference:.1e}")
    finally:
        torch.set_default_dtype(torch.float32)


def measure(case: Case, repeats: int) -> dict[str, list[float]]:
    """Run in a worker: CPU seconds of a meta-batch, by who did it."""
    torch.set_num_threads(1)
    require_same_work(case)
    body, episodes = build_body(model_of(case), 0), episodes_of(case)
    works = {"metaward": ours(case, body, episodes), **peers(case, body, episodes)}
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if turn:  # the first warms up
                taken[name].append(time.process_time() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="32 filters, 1 shot, 3 repeats")
    options = parser.parse_args()
    for name in filter(importlib.util.find_spec, PEERS):
        importlib.import_module(name)  # half an installation shows now, not after minutes
    widths, shots = ((32,), (1,)) if options.quick else ((32, 64), (1, 5))
    repeats = 3 if options.quick else options.repeats
    rows: list[dict[str, Any]] = []
    table = Table("learner", "filters", "shots", "tasks / CPU s", "best peer", "ratio")
    with WorkerPool(1) as pool:
        for case in (Case(name, f, k) for name in OURS for f in widths for k in shots):
            taken = pool.submit(measure, case, repeats).result()
            seconds = {name: statistics.median(found) for name, found in taken.items()}
            best = min((n for n in seconds if n != "metaward"), key=seconds.__getitem__)
            ratio = seconds[best] / seconds["metaward"]
            rows.append(
                {"learner": case.learner, "filters": case.filters, "shots": case.shots,
                 "cpu_seconds": seconds, "best_peer": best, "ratio": ratio}
            )  # fmt: skip
            rate = META_BATCH / seconds["metaward"]
            table.add_row(
                case.learner,
                str(case.filters),
                str(case.shots),
                f"{rate:.1f}",
                best,
                f"{ratio:.2f}",
            )
    Console().print(table)
    setting = {"n_way": N_WAY, "n_query": N_QUERY, "meta_batch": META_BATCH, "image_size": SIZE,
               "inner_steps": STEPS, "repeats": repeats}  # fmt: skip
    save(__file__, {"setting": setting, "rows": rows})


if __name__ == "__main__":
    main()
