"""Learning from noised answers: how a learner works without ever touching a patient.

A private learner is given two functions, and no data: noised sums of clipped per-patient gradients,
and noised sums of features by label, each over a public constant. Everything that it does with the
answers is post-processing, so it can neither spend more than they cost nor reveal more than they
do.

The head is public, or made of noised sums, and no gradient moves it: it is dropped at the end of a
round, so its part of a gradient would take from the clip what the body is asked for. A body that
learns for a head held still: Oh et al. 2021 (BOIL, arXiv:2008.08882) in inner loops; Yang et al.
2022, arXiv:2203.09081, and in federations Li et al. 2023 (FedETF, arXiv:2303.10058), for the very
head of :func:`public_head`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.meta.head import Head
from metaward.meta.parameters import Parameters
from metaward.models.body import Body

HEAD_SCALE = 0.3
"""Length of a class vector at the start. Of 0.3 and 1.0 on synthetic hospitals the better one."""


@dataclass(frozen=True)
class ClassSums:
    """Noised sums over patients by label, in shares of the site's public population.

    A patient with several images counts as the mean of them, for features and for labels.

    Attributes:
        features: (n_labels, n_features), sums of features of bounded length.
        patients: (n_labels,), how many patients; noise can make it negative.
    """

    features: torch.Tensor
    patients: torch.Tensor


class NoisedAnswers(Protocol):
    """The one way to the patients: each call is charged, and there are no more than reserved."""

    def gradient(
        self, at: Parameters, classes: Sequence[int], weights: torch.Tensor | None = None
    ) -> Tensors:
        """Return the body's noised mean gradient of the cross-entropy over ``classes``.

        Args:
            at: Where. Rows of the head, which is held still, stand for ``classes`` in that order.
            classes: Indices into the public list of labels; images of other labels count nothing.
            weights: (n_way,) in [0, 1], for patients of each class: what the clipped gradient is
                multiplied with. Left out: 1.
        """
        ...

    def class_sums(self, theta: Tensors) -> ClassSums:
        """Return the noised sums of the features under ``theta``, over all labels of the list.

        They may be pooled with those of the study's earlier rounds.
        """
        ...


@dataclass(frozen=True)
class NoisedWork:
    """What a private learner is given for one round; all of it public but for the answers.

    Attributes:
        n_labels: Length of the site's public list of labels.
        steps: Answers to ask for in this round, no more and no fewer.
        answers: See :class:`NoisedAnswers`.
        head_seed: Seed of the public head: the same in every round of one site and study.
        rng: Public randomness of this site and round, for the choice of classes.
    """

    n_labels: int
    steps: int
    answers: NoisedAnswers
    head_seed: int
    rng: np.random.Generator


class NoisedLearner(Protocol):
    """An algorithm that can work from noised answers alone."""

    def noised_delta(self, body: Body, theta: Tensors, work: NoisedWork) -> Tensors:
        """Return a direction to ADD to theta after exactly ``work.steps`` answers."""
        ...


def public_head(n_features: int, classes: Sequence[int], n_labels: int, seed: int) -> Head:
    """Return the head of a site's rounds: rows of a random simplex, a function of no data.

    The vectors of all labels are equally long and equally far apart (an equiangular tight frame,
    Yang et al. 2022, arXiv:2203.09081, equation 1) where there are at most as many labels as
    features; otherwise they are random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(n_features, max(n_labels, 2), generator=generator)
    if directions.shape[1] <= n_features:
        directions = torch.linalg.qr(directions).Q
        directions = directions - directions.mean(dim=1, keepdim=True)
    rows = torch.nn.functional.normalize(directions, dim=0).T * HEAD_SCALE
    return Head(rows[list(classes)].clone(), torch.zeros(len(classes)))


def drawn_classes(n_labels: int, n_way: int, rng: np.random.Generator) -> list[int]:
    """Draw the labels of one task, all of them where there are no more than ``n_way``."""
    return sorted(rng.permutation(n_labels)[:n_way].tolist())


def descend(
    body: Body, theta: Tensors, classes: Sequence[int], work: NoisedWork, *, lr: float, steps: int
) -> Parameters:
    """Return where ``steps`` steps of SGD on noised gradients lead from theta."""
    head = public_head(body.features, classes, work.n_labels, work.head_seed)
    at = Parameters({name: leaf.detach().clone() for name, leaf in theta.items()}, head)
    for _ in range(steps):
        slope = work.answers.gradient(at, classes)
        at = Parameters({name: leaf - lr * slope[name] for name, leaf in at.body.items()}, head)
    return at
