"""How long a meta-batch takes, beside the same work by hand and by other libraries.

    python benchmarks/bench_meta_training.py [--quick] [--repeats N]

One meta-batch of 5-way episodes with 15 queries per class on a Conv-4 with max-pooling, 28 x 28
pixels, a head of zeros, 5 inner steps: the setting that papers and peers have. The peers' network
is what one writes: convolution, GroupNorm, ReLU, pool, in torch's default layout. Ours is the body
of the library with the same weights. Before anything is timed, both must give the same
meta-gradient; it is computed in float64 for that.

CPU seconds on one thread; all take turns in one process, each going first as often as any other. A
turn gives a ratio for each peer: what else the machine does slows both. The ratio of a case is the
median over turns, with its quartiles, of the best peer: above 1 we are faster. `higher` and
`torchopt` take part where they are installed (extra `peers`).
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from figures import save
from meta_batch_case import (
    LR,
    META_BATCH,
    N_QUERY,
    N_WAY,
    REPTILE_BATCH,
    SIZE,
    STEPS,
    Case,
    episodes_of,
    in_float64,
    model_of,
)
from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Episode
from metaward.learner_settings import (
    FomamlSettings,
    MamlSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta import fomaml, maml, prototypical, reptile
from metaward.meta.learner import LocalResult
from metaward.meta.meta_batch import TaskExamples, mean_over_episodes, mean_over_tasks
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.workers import WorkerPool
from peers import LIBRARIES, Gradient, Work, peers

ZEROS = AdaptSettings(head="zeros")
SAME = 1e-8
"""Relative difference of two float64 meta-gradients that are the same."""


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
    """Run in a worker: CPU seconds of a meta-batch in each turn, by who did it."""
    torch.set_num_threads(1)
    require_same_work(case)
    body, episodes = build_body(model_of(case), 0), episodes_of(case)
    works = {"metaward": ours(case, body, episodes), **peers(case, body, episodes)}
    taken: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for turn in range(repeats + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = time.process_time()
            works[name]()
            if turn:  # the first warms up
                taken[name].append(time.process_time() - began)
    return taken


def compared(taken: dict[str, list[float]]) -> dict[str, Any]:
    """Return the medians, and the ratio to the peer that is best by it, with its quartiles."""
    own = taken["metaward"]
    ratios = {
        name: statistics.quantiles([b / a for a, b in zip(own, its, strict=True)], n=4)
        for name, its in taken.items()
        if name != "metaward"
    }
    best = min(ratios, key=lambda name: ratios[name][1])
    return {
        "cpu_seconds": {name: statistics.median(found) for name, found in taken.items()},
        "best_peer": best,
        "ratio": ratios[best][1],
        "quartiles": [ratios[best][0], ratios[best][2]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=24, help="turns")
    parser.add_argument("--quick", action="store_true", help="32 filters, 1 shot, 3 repeats")
    options = parser.parse_args()
    for name in filter(importlib.util.find_spec, LIBRARIES):
        importlib.import_module(name)  # half an installation shows now, not after minutes
    widths, shots = ((32,), (1,)) if options.quick else ((32, 64), (1, 5))
    repeats = 3 if options.quick else options.repeats
    rows: list[dict[str, Any]] = []
    table = Table("learner", "filters", "shots", "tasks / CPU s", "best peer", "ratio", "quartiles")
    with WorkerPool(1) as pool:
        for case in (Case(name, f, k) for name in OURS for f in widths for k in shots):
            found = compared(pool.submit(measure, case, repeats).result())
            rows.append(
                {"learner": case.learner, "filters": case.filters, "shots": case.shots} | found
            )
            table.add_row(
                case.learner,
                str(case.filters),
                str(case.shots),
                f"{META_BATCH / found['cpu_seconds']['metaward']:.1f}",
                found["best_peer"],
                f"{found['ratio']:.2f}",
                " to ".join(f"{quartile:.2f}" for quartile in found["quartiles"]),
            )
    Console().print(table)
    setting = {"n_way": N_WAY, "n_query": N_QUERY, "meta_batch": META_BATCH, "image_size": SIZE,
               "inner_steps": STEPS, "repeats": repeats}  # fmt: skip
    save(__file__, {"setting": setting, "rows": rows})


if __name__ == "__main__":
    main()
