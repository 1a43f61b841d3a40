"""Scores of single queries: right or wrong, and the share in the area under the ROC curve."""

import numpy as np
import torch
from numpy.typing import NDArray


def class_probabilities(logits: torch.Tensor) -> NDArray[np.float64]:
    """Return (n, n_way) probabilities; a row that is not finite says the same for every class."""
    probabilities = torch.softmax(logits.cpu().double(), dim=1).numpy()
    broken = ~np.isfinite(probabilities).all(axis=1)
    return np.where(broken[:, None], 1.0 / probabilities.shape[1], probabilities)


def is_correct(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return 1 where the true class is strictly the most probable; a tie is an error.

    Breaking ties by class number would credit a classifier that says the same for every class.

    Args:
        probabilities: (n, n_way).
        truth: (n,) in 0..n_way-1.
    """
    rows = np.arange(len(truth))
    others = probabilities.copy()
    others[rows, truth] = -np.inf
    return np.asarray(probabilities[rows, truth] > others.max(axis=1), dtype=np.uint8)


def auroc_scores(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return one score per query whose mean is the episode's area under the ROC curve.

    The area is one class against the others, averaged over classes (Hand and Till 2001 call it
    the macro average). A query's score is the area plus its influence on it: the structural
    components of DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837), so that clustering
    these scores by patient gives the variance of the area.

    Args:
        probabilities: (n, n_way).
        truth: (n,) in 0..n_way-1; every class occurs, and at least one other.
    """
    n, n_way = probabilities.shape
    influence = np.zeros(n)
    area = 0.0
    for c in range(n_way):
        positive = truth == c
        wins = _wins(probabilities[positive, c], probabilities[~positive, c])
        area_c = float(wins.mean())
        influence[positive] += (wins.mean(axis=1) - area_c) * n / positive.sum()
        influence[~positive] += (wins.mean(axis=0) - area_c) * n / (~positive).sum()
        area += area_c / n_way
    return np.asarray(area + influence / n_way, dtype=np.float32)


def _wins(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n_positive, n_negative): 1 where the positive ranks higher, 1/2 for a tie."""
    difference = positive[:, None] - negative[None, :]
    return (np.sign(difference) + 1.0) / 2.0
