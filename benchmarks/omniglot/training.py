"""Train a learner on a meta-batch of tasks at a time, each followed by an outer step.

    delta <- mean over the meta-batch of learner.local_delta(theta, task)
    theta <- outer_step(theta, delta)

Learner, outer optimiser and checkpoints are those of a study. Where the tasks are drawn from one
pool this is what the papers do; where each is a client's, it is a federation without its transport.
One process works at one training, in one thread. The tasks of step k depend on (seed, k) alone, so
a training that was killed goes on from its last checkpoint to the same bits. It ends after its
steps, or earlier when it has used up its CPU seconds; the latter is said in the results, because
where it ends then depends on the machine.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from pydantic import Field

from metaward.arrays import Arrays, to_arrays, to_tensors
from metaward.config import Settings
from metaward.meta.compose import build_learner, initial_parameters
from metaward.meta.learner import mean_result
from metaward.models.build import build_body
from metaward.study import OuterSettings, Study
from metaward.tasks import CPU, Task
from metaward.whole_file import write_atomically
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.outer_optimizers import initial_state, outer_step

CHECKPOINT_EVERY_S = 60.0
"""CPU seconds of work that a kill can cost."""
SPENT_FILE = "spent.json"

TaskSource: TypeAlias = Callable[[np.random.Generator], Iterator[Task]]
"""The tasks of one outer step, each drawn when it is asked for: the learner draws in between."""


class Training(Settings):
    """How theta is made."""

    study: Study = Field(description="model, learner, outer optimiser, seed; rounds: outer steps")
    meta_batch: int = Field(1, ge=1, description="tasks per outer step")
    anneal: bool = Field(False, description="step size goes to 0 in a straight line")
    budget_s: float = Field(
        gt=0,
        description="CPU seconds after which training ends anyway; wall seconds on an accelerator",
    )

    def with_seed(self, seed: int) -> "Training":
        """Return the same training from another seed."""
        return self.model_copy(update={"study": self.study.model_copy(update={"seed": seed})})

    def with_steps(self, steps: int) -> "Training":
        """Return the same training with another number of outer steps."""
        return self.model_copy(update={"study": self.study.model_copy(update={"rounds": steps})})

    def outer(self, step: int) -> OuterSettings:
        """Return the outer optimiser with the step size of outer step ``step``, from 0."""
        outer = self.study.outer
        factor = 1 - step / self.study.rounds if self.anneal else 1.0
        return outer.model_copy(update={"step_size": outer.step_size * factor})


@dataclass(frozen=True)
class Trained:
    """Where a training ended.

    Attributes:
        steps: Outer steps taken.
        spent_s: CPU seconds that they took, those before a kill with them; on an accelerator, wall
            seconds.
    """

    theta: Arrays
    steps: int
    spent_s: float


def train(
    training: Training, tasks: TaskSource, folder: Path, device: torch.device = CPU
) -> Trained:
    """Train from the beginning, or from the newest checkpoint in ``folder``.

    Args:
        training: How theta is made.
        tasks: Whose images are on the same device.
        folder: For checkpoints.
        device: Where the learner works; the outer step is the coordinator's, and on the CPU.
    """
    study = training.study
    store = CheckpointStore(folder, training.digest())
    progress, before_s = _begin(training, store, folder)
    clock = time.process_time if device == CPU else time.monotonic
    began = saved = clock()
    body, learner = build_body(study.model, study.seed), build_learner(study.learner)
    theta, state, step = progress.theta, progress.outer_state, progress.next_round
    while step < study.rounds and before_s + clock() - began < training.budget_s:
        start = to_tensors(theta, device)
        rng = np.random.default_rng([study.seed, step])
        result = mean_result(
            learner.local_delta(body, start, task, rng)
            for task in islice(tasks(rng), training.meta_batch)
        )
        theta, state = outer_step(training.outer(step), state, theta, to_arrays(result.delta))
        step += 1
        if clock() - saved > CHECKPOINT_EVERY_S:
            saved = clock()
            _save(store, folder, Progress(step, theta, state), before_s + saved - began)
    spent_s = before_s + clock() - began
    _save(store, folder, Progress(step, theta, state), spent_s)
    return Trained(theta, step, spent_s)


def _begin(training: Training, store: CheckpointStore, folder: Path) -> tuple[Progress, float]:
    """Return where to go on, and the seconds that it took to come there."""
    if not store.is_empty():
        spent = json.loads((folder / SPENT_FILE).read_text(encoding="utf-8"))
        return store.load_newest(), float(spent["seconds"])
    study = training.study
    theta = to_arrays(initial_parameters(study.model, study.learner, study.seed))
    return Progress(0, theta, initial_state(study.outer, theta)), 0.0


def _save(store: CheckpointStore, folder: Path, progress: Progress, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SPENT_FILE, json.dumps({"seconds": seconds}))
    store.save(progress)
