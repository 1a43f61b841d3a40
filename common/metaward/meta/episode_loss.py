"""The losses of a query whose classes have logits: a cross-entropy, or a margin.

For logits z and the true class y, with ``loss: margin`` a hinge on each wrong class (Weston and
Watkins 1999, ESANN; the pushing term of Weinberger and Saul 2009, JMLR 10:207, with classes for
neighbours):

    mean over the query of [ sum over k != y of max(0, margin + z_k - z_y) ]
"""

import torch
from torch.nn import functional as F

from metaward.learner_settings import EpisodeLoss
from metaward.meta.inner_loop import cross_entropy


def query_loss(
    logits: torch.Tensor, labels: torch.Tensor, loss: EpisodeLoss, margin: float
) -> torch.Tensor:
    """Return the mean loss of a batch, a scalar; of several tasks' batches, the sum of theirs."""
    match loss:
        case "cross-entropy":
            return cross_entropy(logits, labels)
        case "margin":
            return margin_loss(logits, labels, margin)


def margin_loss(logits: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Return the mean over images of the hinges against all wrong classes, summed; a scalar.

    Of several tasks, (tasks, n, n_way), the sum of theirs.

    >>> logits = torch.tensor([[2.0, 1.5, -1.0, 3.0]])
    >>> float(margin_loss(logits, torch.tensor([0]), 1.0))  # 0.5 + 0 + 2
    2.5
    """
    hinges = F.relu(margin + logits - logits.gather(-1, labels.unsqueeze(-1)))
    wrong = 1 - F.one_hot(labels, logits.shape[-1])
    return (hinges * wrong).sum(dim=-1).mean(dim=-1).sum()
