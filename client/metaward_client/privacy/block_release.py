"""Block release: any learner, made private by releasing a noised mean over blocks of patients.

Sample and aggregate (Nissim, Raskhodnikova and Smith 2007), with subsampled blocks:

    a patient belongs to one of B blocks, by a keyed hash of that patient alone
    each round, each block enters with probability q
    d_b = any computation on block b's patients: one task delta;  zero where it is not finite
    released = (sum of d_b min(1, C / |d_b|) + N(0, (sigma C)^2 I)) / (q B)

A patient touches one block. Replacing, adding or removing one moves that block's clipped delta
within a ball of radius C, so the sum by at most 2C: one Poisson-subsampled Gaussian mechanism under
replace-one (docs/threat-model.md).
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.arrays import Tensors, to_arrays
from metaward.errors import DataError, PrivacyError
from metaward.meta.learner import Learner
from metaward.models.body import Body
from metaward.tasks import Task
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums
from metaward_client.privacy.poisson import block_of, poisson_sample

logger = logging.getLogger(__name__)


def block_release(
    body: Body,
    theta: Tensors,
    task: Task,
    learner: Learner,
    sums: NoisedSums,
    *,
    blocks: int,
    block_key: bytes,
    seed: Sequence[int],
) -> dict[str, NDArray[np.float32]]:
    """Return the noised mean of the blocks' deltas, a direction to ADD to theta.

    Args:
        body: The network.
        theta: The meta-parameters of the round.
        task: The site's task; its ``patient_tokens`` tell the blocks.
        learner: What each block runs on its own patients.
        sums: Adds the noise and counts the release.
        blocks: B.
        block_key: Secret of the site; decides who is in which block.
        seed: Public seed of this site and round; each block has a stream of its own from it.

    Raises:
        PrivacyError: The task does not say who its patients are.
    """
    if len(task.patient_tokens) <= task.patients.max(initial=-1):
        raise PrivacyError(
            "a task that does not tell its patients apart",
            expected="a token for each patient",
            where="block release",
            next_step="Report this: nothing was released.",
        )
    shapes = {name: tuple(leaf.shape) for name, leaf in theta.items()}
    total = ClippedSum.empty(shapes, sums.max_grad_norm)
    home = block_of(task.patient_tokens, blocks, block_key)
    for block in poisson_sample(blocks, sums.terms.sample_rate, sums.source).tolist():
        rng = np.random.default_rng(np.random.SeedSequence([*seed, block]))
        delta = block_delta(body, theta, task, learner, np.flatnonzero(home == block), rng)
        if delta is not None:
            total.add({name: leaf[None] for name, leaf in delta.items()})
    return {name: leaf.astype(np.float32) for name, leaf in sums.release(total, shapes).items()}


def block_delta(
    body: Body,
    theta: Tensors,
    task: Task,
    learner: Learner,
    patients: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float32]] | None:
    """Return the delta of one block's patients; None, which counts as zero, where it fails.

    Whether a block can learn at all depends on its patients, so it may not show: not as a refusal,
    not in the divisor. That holds for every failure, too few patients or any other, but for one of
    the machine: an accelerator that has failed once fails every later block too, and no block may
    hang on another's.

    Raises:
        MemoryError: Or what torch raises for it, and for an accelerator: the round ends unanswered.
    """
    own = block_task(task, patients)
    if not own.n_images:
        return None
    try:
        return to_arrays(learner.local_delta(body, theta, own, rng).delta)
    except DataError:
        return None
    except Exception as error:
        if is_of_the_machine(error, task.device):
            raise
        # a refused round would tell that one block failed
        logger.warning("a block's work failed (%s) and counts as zero", type(error).__name__)
        return None


def is_of_the_machine(error: Exception, device: torch.device) -> bool:
    """Say whether memory or an accelerator failed, and not the work on some patients' images."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError):  # what torch raises for both, without a class of its own
        return device.type != "cpu" or CPU_MEMORY in str(error)
    return False


CPU_MEMORY = "DefaultCPUAllocator"
"""In the message of torch's RuntimeError for a CPU's memory."""


def block_task(task: Task, patients: NDArray[np.int64]) -> Task:
    """Return the task of some patients as if there were no others.

    Labels and patients are numbered anew: which labels exist elsewhere, and how many patients,
    would otherwise change the work of every block when one patient comes or goes.
    """
    rows = np.flatnonzero(np.isin(task.patients, patients))
    present, labels = np.unique(task.labels[rows], return_inverse=True)
    _, numbers = np.unique(task.patients[rows], return_inverse=True)
    return Task(
        site=task.site,
        images=task.images[rows],
        labels=labels.astype(np.int64),
        patients=numbers.astype(np.int64),
        label_names=tuple(task.label_names[label] for label in present),
        device=task.device,
    )
