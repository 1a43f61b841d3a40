"""One training and its scores, as a worker does it and finds it again after an interruption."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metaward.arrays import Arrays
from metaward.tasks import CPU
from metaward.whole_file import write_atomically
from omniglot.training import TaskSource, Training, train

RESULT_FILE = "result.json"


def trained_and_scored(
    training: Training,
    tasks: TaskSource,
    score: Callable[[Arrays], dict[str, Any]],
    folder: Path,
    device: torch.device = CPU,
    **said: Any,
) -> dict[str, Any]:
    """Train, then score; what was done before an interruption is not done again.

    Args:
        training: How theta is made.
        tasks: What it is made from.
        score: Takes theta; its answer becomes part of the result.
        folder: For checkpoints and for the result.
        device: Where the learner trains.
        **said: Becomes part of the result too. What stands in the folder is taken for done if it
            says the same and comes from the same training.
    """
    torch.set_num_threads(1)
    said |= {"digest": training.digest(), "seed": training.study.seed}
    done = folder / RESULT_FILE
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if said.items() <= found.items():
            return found
    began = time.monotonic()
    trained = train(training, tasks, folder, device)
    scored = time.process_time()
    scores = score(trained.theta)
    result = {
        **said,
        "steps": trained.steps,
        "cpu_s" if device == CPU else "device_s": round(trained.spent_s, 1),
        "scoring_cpu_s": round(time.process_time() - scored, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "training": training.model_dump(mode="json"),
        **scores,
    }
    write_atomically(done, json.dumps(result))
    return result
