"""Single support images, as a classifier keeps them, and scores against them by their class."""

import torch
from torch.nn import functional as F

from metaward.arrays import Tensors


def kept_features(features: torch.Tensor, labels: torch.Tensor, n_way: int) -> Tensors:
    """Return what a classifier keeps that compares with each support image.

    Args:
        features: (n_support, n_features).
        labels: (n_support,) in 0..n_way-1.
        n_way: Number of classes.
    """
    return {"features": features, "classes": F.one_hot(labels, n_way).to(features)}


def features_and_labels(kept: Tensors) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return what was given to :func:`kept_features`."""
    return kept["features"], kept["classes"].argmax(dim=1), kept["classes"].shape[1]


def by_class(scores: torch.Tensor, labels: torch.Tensor, n_way: int) -> torch.Tensor:
    """Return (n_query, n_way, n_support): each score with its own class, -inf with the others.

    Args:
        scores: (n_query, n_support).
        labels: (n_support,) in 0..n_way-1; in any order, and every class occurs.
        n_way: Number of classes.

    >>> by_class(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1, 0, 1]), 2).amax(dim=2).tolist()
    [[2.0, 3.0]]
    """
    belongs = F.one_hot(labels, n_way).T.bool()  # (n_way, n_support)
    return scores[:, None, :].masked_fill(~belongs, -torch.inf)
