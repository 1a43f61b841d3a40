"""Score a learner on test episodes: the mean accuracy, and how far it may be off.

As in the papers: accuracy of each episode, then mean +/- 1.96 sd / sqrt(n) over n episodes. The
interval speaks of the episodes that were drawn, not of another training; results give each seed.

A query is classified by itself: the norms of our bodies look at one image at a time, so nothing
here is transductive, and how many queries an episode has changes no answer.
"""

import math
import statistics
from collections.abc import Callable, Sequence

import torch

from metaward.arrays import Arrays, to_tensors
from metaward.episodes import Episode
from metaward.learner_settings import LearnerSettings
from metaward.meta.compose import build_learner
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.study import Study
from metaward.tasks import CPU, Task
from omniglot.clients import client_episode
from omniglot.episodes import Classes, Setting, drawn_episode

Z95 = 1.96
EPISODES_SEED = 600_613
"""Of the list of test episodes, which is the same for every learner and every seed of training."""


def episode_accuracies(
    study: Study,
    theta: Arrays,
    classes: Classes,
    setting: Setting,
    *,
    episodes: int,
    n_query: int,
    device: torch.device = CPU,
) -> list[float]:
    """Return the share of right answers in each test episode."""
    right = scorer(study.model, study.learner, theta, device)
    return [
        right(
            drawn_episode(
                classes, setting, n_query, seed=EPISODES_SEED, number=number, device=device
            )
        )
        for number in range(episodes)
    ]


def client_accuracies(
    model: ModelSettings,
    learner: LearnerSettings,
    theta: Arrays,
    clients: Sequence[Task],
    n_shot: int,
    *,
    episodes: int,
    n_query: int,
) -> list[float]:
    """Return the share of right answers at each client, mean over its episodes."""
    right = scorer(model, learner, theta)
    return [
        statistics.fmean(
            right(
                client_episode(client, n_shot, n_query, seed=(EPISODES_SEED, n_shot, which, number))
            )
            for number in range(episodes)
        )
        for which, client in enumerate(clients)
    ]


def scorer(
    model: ModelSettings, learner: LearnerSettings, theta: Arrays, device: torch.device = CPU
) -> Callable[[Episode], float]:
    """Return what adapts theta to an episode, and tells the share of right answers."""
    body, built, start = build_body(model, 0), build_learner(learner), to_tensors(theta, device)

    def right(episode: Episode) -> float:
        answers = built.adapt(body, start, episode.support)(episode.query.images).argmax(dim=1)
        return float((answers == episode.query.labels).float().mean())

    return right


def mean_and_reach(accuracies: Sequence[float]) -> tuple[float, float]:
    """Return the mean and 1.96 sd / sqrt(n), sd with n - 1; at least two accuracies.

    >>> mean_and_reach([0.8, 1.0])
    (0.9, 0.196)
    """
    sd = statistics.stdev(accuracies)
    reach = Z95 * sd / math.sqrt(len(accuracies))
    return round(statistics.fmean(accuracies), 6), round(reach, 6)
