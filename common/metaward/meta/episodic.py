"""What the episodic learners share: how a site's task becomes episodes to train on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from metaward.augmentation import augmented
from metaward.episodes import Episode, sample_episode, ways_within
from metaward.learner_settings import Augment
from metaward.tasks import Task


class EpisodicSettings(Protocol):
    """The settings that say what an episode is, and how many a site draws per round."""

    @property
    def n_way(self) -> int:
        """Classes per episode, or all usable labels where a site has fewer."""
        ...

    @property
    def n_shot(self) -> int:
        """Support images per class."""
        ...

    @property
    def n_query(self) -> int:
        """Query images per class."""
        ...

    @property
    def episodes(self) -> int:
        """Episodes per site and round."""
        ...

    @property
    def augment(self) -> Augment:
        """How images are changed while training."""
        ...


def require_episodes(task: Task, settings: EpisodicSettings) -> int:
    """Return the ways of this task's episodes.

    Raises:
        DataError: The task has fewer than two labels that are large enough.
    """
    return ways_within(task, settings.n_way, n_shot=settings.n_shot, n_query=settings.n_query)


def draw_episodes(
    task: Task, settings: EpisodicSettings, rng: np.random.Generator
) -> Iterator[Episode]:
    """Give ``settings.episodes`` episodes, augmented.

    Raises:
        DataError: See :func:`require_episodes`.
    """
    n_way = require_episodes(task, settings)
    for _ in range(settings.episodes):
        episode = sample_episode(
            task, n_way=n_way, n_shot=settings.n_shot, n_query=settings.n_query, rng=rng
        )
        yield replace(
            episode,
            support=augmented(episode.support, settings.augment, rng),
            query=augmented(episode.query, settings.augment, rng),
        )
