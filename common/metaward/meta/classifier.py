"""What a new site's adaptation gives: a classifier, and all that it keeps of the support set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from metaward.arrays import Tensors
from metaward.meta.head import Head
from metaward.models.body import Body

if TYPE_CHECKING:
    from metaward.meta.inner_loop import Adapted

HEAD_WEIGHT = "head.weight"
HEAD_BIAS = "head.bias"


@dataclass(frozen=True)
class Classifier:
    """Called with images it gives logits, and tracks no gradients.

    Attributes:
        kept: All that it knows of the support set: float32 tensors, and no image. With theta they
            make the same classifier again, see :meth:`metaward.meta.learner.Learner.classifier`.
        answer: Standardised images (n, channels, height, width) -> logits (n, n_way).
    """

    kept: Tensors
    answer: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_way) for standardised images (n, channels, height, width)."""
        with torch.no_grad():
            return self.answer(images)


def linear_classifier(body: Body, theta: Tensors, kept: Tensors) -> Classifier:
    """Return the classifier of a linear head on the body's features.

    Args:
        body: The network.
        theta: Meta-parameters.
        kept: From :func:`kept_head` or :func:`kept_of`; leaves of the body stand in for theta's.
    """
    head = Head(kept[HEAD_WEIGHT], kept[HEAD_BIAS])
    moved = {name: leaf for name, leaf in kept.items() if name not in (HEAD_WEIGHT, HEAD_BIAS)}
    phi = theta | moved
    return Classifier(kept, lambda images: head(body.apply_with(phi, images)))


def kept_head(head: Head) -> Tensors:
    """Return what a classifier keeps whose head alone was adapted."""
    return {HEAD_WEIGHT: head.weight.detach(), HEAD_BIAS: head.bias.detach()}


def kept_of(adapted: "Adapted") -> Tensors:
    """Return what a classifier keeps whose body was adapted too."""
    moved = {name: leaf.detach() for name, leaf in adapted.phi.items()}
    return moved | kept_head(adapted.head)
