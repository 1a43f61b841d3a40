"""Scores against single support images, gathered by the class of the image."""

import torch
from torch.nn import functional as F


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
