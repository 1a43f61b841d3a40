"""A site under patient DP-SGD, and its gradients worked out in one plain pass."""

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F

from metaward.meta.noised import public_head
from metaward.meta.parameters import Parameters
from metaward.tasks import Task
from metaward_client.privacy.cohort import Cohort, Sample
from metaward_client.privacy.dp_sgd import PatientAnswers, clipped_sum
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums
from metaward_client.privacy.terms import Terms
from private_site import BODY, KnownSource

LABELS = ("a", "b")
HEAD = public_head(BODY.features, (0, 1), 2, seed=1)
AT = Parameters(BODY.initial_parameters(), HEAD)


def site(task: Task, *, norm: float = 1e6, m: int = 4, source: KnownSource | None = None,
         augment: str = "none", steps: int = 9) -> PatientAnswers:  # fmt: skip
    terms = Terms("dp-sgd", 1.0, 0.5, steps, norm, divisor=10.0)
    sums = NoisedSums(terms, source or KnownSource(), norm)
    return PatientAnswers(
        BODY, Cohort.of(task, LABELS), sums, images_per_patient=m,
        augment=augment,  # type: ignore[arg-type]
    )  # fmt: skip


def summed(
    at: PatientAnswers, *, drawn: list[int] | None = None, classes: tuple[int, ...] = (0, 1),
    weights: list[float] | None = None,
) -> ClippedSum:  # fmt: skip
    n = at.cohort.n_patients
    who = np.arange(n) if drawn is None else np.asarray(drawn, dtype=np.int64)
    given = None if weights is None else torch.tensor(weights)
    return clipped_sum(at, AT, sample(at, who, np.linspace(0.1, 0.9, 50)), classes, weights=given)


def sample(at: PatientAnswers, drawn: np.ndarray, seeds: np.ndarray) -> Sample:
    return Sample(drawn, seeds, at.images_per_patient, at.augment)


def flat(sums: ClippedSum) -> np.ndarray:
    return np.concatenate([leaf.ravel() for leaf in sums.sums.values()])


def by_hand(task: Task, rows: list[int]) -> np.ndarray:
    """The gradient of the mean loss over some images, in one plain backward pass."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in AT.body.items()}
    features = functional_call(BODY, leaves, (task.take(np.array(rows)),))
    logits = features @ HEAD.weight.T + HEAD.bias
    loss = F.cross_entropy(logits, torch.from_numpy(task.labels[rows]))
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return np.concatenate([gradient.double().numpy().ravel() for gradient in gradients])
