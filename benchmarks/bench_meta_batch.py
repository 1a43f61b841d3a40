"""A meta-batch side by side, beside the same tasks one after the other.

    python benchmarks/bench_meta_batch.py [--quick] [--device cuda] [--tasks 32]

The episodes and the learners of bench_meta_training.py: 5-way, 15 queries per class, Conv-4 with
max-pooling at 28 x 28 pixels, 5 inner steps. Three ways of the same meta-batch: by hand as a loop
over torch modules; the library's own loop; the library's tasks side by side. CPU seconds on one
thread (on an accelerator wall seconds, which is what the loop leaves it idle in), median over
repeats; all take turns. A ratio above 1 says that side by side is faster. Before anything is timed,
all three must give the same meta-gradient in float64.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench_meta_training import OURS, SAME, ours
from figures import device_name, save
from meta_batch_case import Case, episodes_of, in_float64, model_of
from metaward.device import device_of
from metaward.models.build import build_body
from peers import Gradient, Work, peers

BY_HAND, LOOP, TOGETHER = "by hand", "loop", "side by side"


def ways_of(case: Case, n_tasks: int, device: str, *, double: bool = False) -> dict[str, Work]:
    """Return the three ways, each of which gives the mean delta."""
    body = build_body(model_of(case), 0).to(device)
    episodes = episodes_of(case, n_tasks, device)
    if double:
        body, episodes = body.double(), in_float64(episodes)
    return {
        BY_HAND: peers(case, body, episodes)["by hand"],
        LOOP: ours(case, body, episodes, 1),
        TOGETHER: ours(case, body, episodes, n_tasks),
    }


def require_same_work(case: Case, device: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        found = {name: work() for name, work in ways_of(case, 3, device, double=True).items()}
    finally:
        torch.set_default_dtype(torch.float32)
    expected = flat(found[LOOP])
    for name, gradient in found.items():
        difference = float((flat(gradient) - expected).norm() / expected.norm())
        if not difference < SAME:
            raise AssertionError(f"{case}: {name} differs by {difference:.1e}")


def flat(gradient: Gradient) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in gradient])


def measure(case: Case, n_tasks: int, repeats: int, device: str) -> dict[str, float]:
    """Return the seconds of a meta-batch, by way."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    ways = ways_of(case, n_tasks, device)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            began = clock()
            waited_for(work, device)
            if turn:  # the first warms up
                taken[name].append(clock() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def waited_for(work: Callable[[], Any], device: str) -> None:
    work()
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tasks", type=int, default=32, help="of a meta-batch")
    parser.add_argument("--quick", action="store_true", help="32 filters, 1 shot, 1 repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device_of(options.device)
    widths, shots = ((32,), (1,)) if options.quick else ((32, 64), (1, 5))
    repeats = 1 if options.quick else options.repeats
    ways = [f"{way}, ms" for way in (BY_HAND, LOOP, TOGETHER)]
    table = Table("learner", "filters", "shots", *ways, "ratio")
    rows: list[dict[str, Any]] = []
    for case in (Case(name, f, k) for name in OURS for f in widths for k in shots):
        require_same_work(case, options.device)
        found = measure(case, options.tasks, repeats, options.device)
        ratio = min(found[BY_HAND], found[LOOP]) / found[TOGETHER]
        rows.append(
            {"learner": case.learner, "filters": case.filters, "shots": case.shots,
             "seconds": found, "ratio": ratio}
        )  # fmt: skip
        times = [f"{1e3 * seconds:.1f}" for seconds in found.values()]
        table.add_row(case.learner, str(case.filters), str(case.shots), *times, f"{ratio:.2f}")
    Console().print(table)
    save(__file__, {"device": device_name(options.device), "tasks": options.tasks,
                    "repeats": repeats, "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
