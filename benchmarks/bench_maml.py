"""Memory and time of one meta-gradient: FOMAML, MAML in one graph, MAML step by step.

conv4 with max-pool, 64 filters, 28 x 28 pixels, 5-way 5-shot, 15 queries per class. Each line is
a process of its own: the memory is the greatest resident size of that process less its size before
the first episode (ru_maxrss), the time the median CPU time of an episode, in one thread.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from figures import save

METHODS = ("fomaml", "maml", "maml, checkpoint")
STEPS = (1, 5, 10)
N_WAY, N_SHOT, N_QUERY, SIZE = 5, 5, 15, 28


def measure(method: str, steps: int, repeats: int) -> dict[str, Any]:
    """Return peak memory and time of an episode, in this process."""
    import torch

    from metaward.episodes import Episode, Examples
    from metaward.learner_settings import FomamlSettings, MamlSettings
    from metaward.meta import fomaml, maml
    from metaward.model_settings import ModelSettings
    from metaward.models.build import build_body

    torch.set_num_threads(1)
    body = build_body(ModelSettings(filters=64, image_size=SIZE, downsample="pool"), 0)
    theta = body.initial_parameters()
    generator = torch.Generator().manual_seed(0)

    def draw(per_class: int) -> Examples:
        images = torch.randn(N_WAY * per_class, 1, SIZE, SIZE, generator=generator)
        return Examples(images, torch.arange(N_WAY).repeat_interleave(per_class), N_WAY)

    episode = Episode(draw(N_SHOT), draw(N_QUERY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        if method == "fomaml":
            fomaml.task_delta(body, theta, episode, FomamlSettings(inner_steps=steps))
        else:
            checkpoint = method == "maml, checkpoint"
            settings = MamlSettings(inner_steps=steps, checkpoint=checkpoint)
            maml.task_delta(body, theta, episode, settings)
        seconds.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "method": method, "inner_steps": steps, "mib": peak / 1024, "cpu_s": median(seconds[1:]),
    }  # fmt: skip


def in_a_process(*case: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*json.loads(options.case))))
        return
    repeats, steps = (2, STEPS[:1]) if options.quick else (6, STEPS)
    rows = [in_a_process(method, n, repeats) for method in METHODS for n in steps]
    table = Table("method", "inner steps", "MiB", "CPU s")
    for row in rows:
        table.add_row(
            row["method"], str(row["inner_steps"]), f"{row['mib']:.0f}", f"{row['cpu_s']:.2f}"
        )
    Console().print(table)
    save(__file__, {"cases": rows})


if __name__ == "__main__":
    main()
