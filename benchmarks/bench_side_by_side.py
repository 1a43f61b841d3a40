"""Inner loops of several tasks side by side, beside the same one after the other.

    python benchmarks/bench_side_by_side.py [--quick] [--device cuda]

CPU seconds of an inner step of one task on one thread (on an accelerator: wall seconds), median
over repeats; both take turns. A ratio above 1 says that side by side is faster.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from figures import save
from metaward.episodes import Examples
from metaward.meta.head import Head
from metaward.meta.inner_loops import inner_loops
from metaward.models.body import build_body
from metaward.study import ModelSettings

SIZE, STEPS = 28, 3


def case(
    downsample: str, filters: int, n_images: int, n_tasks: int, device: str
) -> Callable[[int], None]:
    """Return what takes the inner steps of all tasks, so many at once."""
    model = ModelSettings.model_validate(
        {"filters": filters, "image_size": SIZE, "downsample": downsample}
    )
    body = build_body(model, 0).to(device)
    theta = body.initial_parameters()
    heads = [
        Head(torch.zeros(5, body.features, device=device), torch.zeros(5, device=device))
        for _ in range(n_tasks)
    ]
    labels = torch.arange(n_images, device=device) % 5
    batches = [
        [Examples(torch.randn(n_images, 1, SIZE, SIZE, device=device), labels, 5)] * STEPS
        for _ in range(n_tasks)
    ]

    def run(at_once: int) -> None:
        inner_loops(body, theta, heads, batches, lr=0.1, at_once=at_once)
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def measure(run: Callable[[int], None], n_tasks: int, repeats: int, device: str) -> dict[str, Any]:
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken: dict[int, list[float]] = {1: [], n_tasks: []}
    for turn in range(repeats + 1):
        for at_once, seconds in taken.items():
            began = clock()
            run(at_once)
            if turn:  # the first warms up
                seconds.append((clock() - began) / n_tasks / STEPS)
    loop, side = (statistics.median(seconds) for seconds in taken.values())
    return {"loop_s": loop, "side_by_side_s": side, "ratio": loop / side}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="one case, 2 repeats")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = itertools.product(("stride", "pool"), (16, 32, 64), (5, 10, 25), (4, 16))
    table = Table("conv4", "filters", "images", "tasks", "loop, ms", "side by side, ms", "ratio")
    rows = []
    for downsample, filters, n_images, n_tasks in [next(cases)] if options.quick else cases:
        run = case(downsample, filters, n_images, n_tasks, options.device)
        repeats = 2 if options.quick else options.repeats
        found = measure(run, n_tasks, repeats, options.device)
        rows.append(
            {"downsample": downsample, "filters": filters, "images": n_images, "tasks": n_tasks}
            | found
        )
        table.add_row(
            downsample, str(filters), str(n_images), str(n_tasks),
            f"{1e3 * found['loop_s']:.2f}", f"{1e3 * found['side_by_side_s']:.2f}",
            f"{found['ratio']:.2f}",
        )  # fmt: skip
    Console().print(table)
    save(__file__, {"device": options.device, "rows": rows})


if __name__ == "__main__":
    main()
