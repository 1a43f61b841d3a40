"""Accuracy by presentation: how well a learner names the k-th image of a class that it sees.

The measure of Santoro et al. 2016, arXiv:1605.06065, tables 1 and 2, for learners that read a
sequence. At the first presentation of a class the best answer is a guess among those that
have not come yet; k + 1 tells what k examples of the class are worth.
"""

from collections.abc import Iterable

import torch


def presentation_of(labels: torch.Tensor) -> torch.Tensor:
    """Return which presentation of its class each step of a sequence is, (n,) from 1.

    >>> presentation_of(torch.tensor([2, 0, 2, 2, 0])).tolist()
    [1, 1, 2, 3, 2]
    """
    same = labels[:, None] == labels[None]
    return same.tril().sum(dim=1)


def accuracy_by_presentation(
    sequences: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[float, ...]:
    """Return the accuracy at the 1st, 2nd, ... presentation, over all sequences together.

    Args:
        sequences: Of each its logits (n, n_way), every row from the steps before it alone, and
            its labels (n,). At least one.
    """
    right, seen = [], []
    for logits, labels in sequences:
        right.append(logits.argmax(dim=1) == labels)
        seen.append(presentation_of(labels))
    hit, which = torch.cat(right).double(), torch.cat(seen)
    return tuple(float(hit[which == k].mean()) for k in range(1, int(which.max()) + 1))
