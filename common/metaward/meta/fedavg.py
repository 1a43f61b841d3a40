"""FedAvg on the body with a local head; a new site fine-tunes. The baseline to beat.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1: every site takes local SGD steps on its own
supervised problem (all of its labels at once), the coordinator averages. The head stays at the
site (Arivazhagan et al. 2019, arXiv:1912.00818), because label sets differ. It starts each round
from the prototypes of one class-balanced batch under the current body rather than from the site's
last head, which keeps a site without state (docs/design/0002-fedavg-baseline.md).

    delta = phi_K - theta, a direction to add
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.arrays import Tensors
from metaward.augmentation import augmented
from metaward.episodes import Examples, ways_within
from metaward.learner_settings import FedAvgSettings
from metaward.meta.classifier import Classifier, kept_of
from metaward.meta.head import prototype_head
from metaward.meta.inner_loop import adapt_on_support, inner_loop
from metaward.meta.learner import Learner, LocalResult
from metaward.meta.minibatches import batch_indices
from metaward.meta.noised import NoisedWork, descend
from metaward.models.body import Body
from metaward.tasks import Task

HEAD_BATCH_PER_CLASS = 10
"""Images of each label that the head of a round is made from, at most."""


@dataclass(frozen=True)
class FedAvg(Learner):
    """The learner: supervised training on the whole task, no episodes."""

    settings: FedAvgSettings

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return ``phi - theta`` after ``local_steps`` mini-batch steps on all labels."""
        s = self.settings
        with torch.no_grad():
            sample = _examples(task, _balanced_rows(task, rng))
            features = body.apply_with(theta, sample.images)
            head = prototype_head(features, sample.labels, sample.n_way)
        batches = (
            augmented(_examples(task, rows), s.augment, rng)
            for rows in batch_indices(task.n_images, s.batch_size, s.local_steps, rng)
        )
        adapted = inner_loop(body, theta, head, batches, lr=s.local_lr)
        delta = {name: adapted.phi[name].detach() - leaf.detach() for name, leaf in theta.items()}
        return LocalResult(delta, adapted.loss)

    def noised_delta(self, body: Body, theta: Tensors, work: NoisedWork) -> Tensors:
        """Return ``phi - theta`` after SGD on noised gradients over all labels."""
        everything = range(work.n_labels)
        adapted = descend(
            body, theta, everything, work, lr=self.settings.local_lr, steps=work.steps
        )
        return {name: adapted.body[name] - leaf for name, leaf in theta.items()}

    def require_fit(self, task: Task) -> None:
        """Check that there are two labels; see :class:`metaward.meta.learner.Learner`."""
        ways_within(task, len(task.label_names), n_shot=1, n_query=0)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Fine-tune on the support set; see :class:`metaward.meta.learner.Learner`."""
        adapted = adapt_on_support(body, theta, support, self.settings.adapt)
        return self.classifier(body, theta, kept_of(adapted))


def _balanced_rows(task: Task, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.concatenate(
        [
            rng.permutation(np.flatnonzero(task.labels == label))[:HEAD_BATCH_PER_CLASS]
            for label in np.unique(task.labels)
        ]
    )


def _examples(task: Task, rows: NDArray[np.int64]) -> Examples:
    """Return images by the labels that there are; a name on the list may have no image."""
    present = np.unique(task.labels)
    labels = torch.from_numpy(np.searchsorted(present, task.labels[rows])).to(task.device)
    return Examples(task.take(rows), labels, len(present))
