"""Score a learner on test episodes: the mean accuracy, and how far it may be off.

As in the papers: accuracy of each episode, then mean +/- 1.96 sd / sqrt(n) over n episodes. The
interval speaks of the episodes that were drawn, not of another training; results give each seed.

A query is classified by itself: the norms of our bodies look at one image at a time, so nothing
here is transductive, and how many queries an episode has changes no answer.
"""

import math
import statistics
from collections.abc import Sequence

from metaward.arrays import Arrays, to_tensors
from metaward.meta.compose import build_learner
from metaward.models.body import build_body
from metaward.study import Study
from omniglot.episodes import Classes, Setting, drawn_episode

Z95 = 1.96
EPISODES_SEED = 600_613
"""Of the list of test episodes, which is the same for every learner and every seed of training."""


def episode_accuracies(
    study: Study, theta: Arrays, classes: Classes, setting: Setting, *, episodes: int, n_query: int
) -> list[float]:
    """Return the share of right answers in each test episode."""
    body, learner = build_body(study.model, study.seed), build_learner(study.learner)
    start = to_tensors(theta)
    accuracies = []
    for number in range(episodes):
        episode = drawn_episode(classes, setting, n_query, seed=EPISODES_SEED, number=number)
        answers = learner.adapt(body, start, episode.support)(episode.query.images).argmax(dim=1)
        accuracies.append(float((answers == episode.query.labels).float().mean()))
    return accuracies


def mean_and_reach(accuracies: Sequence[float]) -> tuple[float, float]:
    """Return the mean and 1.96 sd / sqrt(n), sd with n - 1; at least two accuracies.

    >>> mean_and_reach([0.8, 1.0])
    (0.9, 0.196)
    """
    sd = statistics.stdev(accuracies)
    reach = Z95 * sd / math.sqrt(len(accuracies))
    return round(statistics.fmean(accuracies), 6), round(reach, 6)
