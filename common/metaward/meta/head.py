"""The head: a linear layer on the body's features. It belongs to one task and never leaves a site.

A head is made anew at every adaptation, for any number of classes: from zeros, or from the
class prototypes, so that two sites need not agree on label sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from metaward.adapt_settings import HeadStart


@dataclass(frozen=True)
class Head:
    """``logits = features @ weight.T + bias``.

    The heads of several tasks are one with a first axis of tasks, and so are their features.

    Attributes:
        weight: (n_way, n_features) float32.
        bias: (n_way,) float32.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_way) from features (n, n_features)."""
        return features @ self.weight.mT + self.bias.unsqueeze(-2)

    def detached(self) -> "Head":
        """Return a copy that no gradient flows through, ready to be adapted."""
        return Head(
            self.weight.detach().clone().requires_grad_(),
            self.bias.detach().clone().requires_grad_(),
        )


def zero_head(n_features: int, n_way: int, *, like: torch.Tensor, tasks: Sequence[int]) -> Head:
    """Return a head that gives every class the same probability.

    Args:
        n_features: Numbers per image.
        n_way: Number of classes.
        like: Gives the type of the numbers, and the device.
        tasks: () for one task, (n,) for n of them.
    """
    return Head(like.new_zeros(*tasks, n_way, n_features), like.new_zeros(*tasks, n_way))


def prototypes(features: torch.Tensor, labels: torch.Tensor, n_way: int) -> torch.Tensor:
    """Return the mean feature of each class, (n_way, n_features); order of examples is free.

    With a first axis of tasks, of each task's classes. Snell et al. 2017, equation 1.
    """
    membership = F.one_hot(labels, n_way).to(features.dtype)
    return (membership.mT @ features) / membership.sum(dim=-2).unsqueeze(-1)


def prototype_head(features: torch.Tensor, labels: torch.Tensor, n_way: int) -> Head:
    """Return the linear head whose softmax is that of a prototypical network.

    ``-||f - c||^2 = 2 f.c - ||c||^2 - ||f||^2``, and the last term is the same for every class
    (Snell et al. 2017, equation 8; Triantafillou et al. 2020, section 3). Squared distances are
    divided by the square root of the number of features, so that the softmax saturates later.
    """
    return distance_head(prototypes(features, labels, n_way))


def distance_head(centres: torch.Tensor) -> Head:
    """Return the head of :func:`prototype_head` from the centres, (n_way, n_features)."""
    scale = centres.shape[-1] ** -0.5
    return Head(2.0 * scale * centres, -scale * centres.square().sum(dim=-1))


LEAST_LENGTH = 1e-6
"""What a shorter feature is taken for in a cosine: one of length 0 has no direction, and is as far
from every class."""


@dataclass(frozen=True)
class CosineHead:
    """``logits = cos(features, directions) / temperature``, in [-1, 1] / temperature.

    Attributes:
        directions: (n_way, n_features), each of length 1.
        temperature: Above 0.
    """

    directions: torch.Tensor
    temperature: float

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_way) from features (n, n_features)."""
        return directions_of(features) @ self.directions.mT / self.temperature


def directions_of(features: torch.Tensor) -> torch.Tensor:
    """Return (n, n_features) with each row divided by its length."""
    return F.normalize(features, dim=-1, eps=LEAST_LENGTH)


def first_head(start: HeadStart, features: torch.Tensor, labels: torch.Tensor, n_way: int) -> Head:
    """Return the head that adaptation starts from, made from the support set's features."""
    match start:
        case "prototypes":
            return prototype_head(features, labels, n_way)
        case "zeros":
            n_features, tasks = features.shape[-1], features.shape[:-2]
            return zero_head(n_features, n_way, like=features, tasks=tasks)
