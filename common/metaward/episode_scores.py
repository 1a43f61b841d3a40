"""Adapt every method to the same supports, and score it on the same queries.

Within an episode the supports are nested: the first image per class is the 1-shot support, the
first five the 5-shot support, and the queries are the same for all.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.arrays import Arrays, to_tensors
from metaward.episodes import EpisodeIndices, Examples
from metaward.learner_settings import LearnerSettings
from metaward.meta.compose import build_learner
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.scoring import auroc_scores, class_scores, is_correct, log_odds
from metaward.tasks import Task


@dataclass(frozen=True)
class Method:
    """One way to get a classifier from a support set.

    Attributes:
        name: Short key, used in files: ``"meta"``, ``"fedavg"``, ``"local"``, ``"random"``.
        label: What a reader sees.
        theta: Parameters of the body that adaptation starts from.
    """

    name: str
    label: str
    model: ModelSettings
    learner: LearnerSettings
    theta: Arrays


@dataclass(frozen=True)
class EpisodeJob:
    """Some episodes of one site, with nothing but the images they need.

    Attributes:
        task: The site's task, restricted to the images of these episodes.
        first: Number of the first episode.
        drawn: Indices into ``task``, one entry per episode; supports drawn for the largest shot
            count.
        shots: Shot counts to score, ascending.
        clock: Seconds, monotonic; for the time that an adaptation takes.
    """

    task: Task
    methods: tuple[Method, ...]
    first: int
    drawn: tuple[EpisodeIndices, ...]
    shots: tuple[int, ...]
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class EpisodeScores:
    """Scores of every query of some episodes.

    Attributes:
        episode: (n,) int32, number of the episode.
        patient: (n,) int64, patient of the query, within the site.
        label: (n,) int64, true label of the query, within the site.
        support: (n_episodes, n_way, n_shot) int64, patients that episodes adapted on, for the
            largest shot count; a smaller one takes the first of each class.
        correct: (n_methods, n_shots, n) uint8, 1 where the most probable class is the true one.
        auroc: (n_methods, n_shots, n) float32; see :func:`metaward.scoring.auroc_scores`.
        adapt_seconds: (n_methods, n_shots, n_episodes) float64. Measured, so it differs between
            runs; nothing else does.
    """

    episode: NDArray[np.int32]
    patient: NDArray[np.int64]
    label: NDArray[np.int64]
    support: NDArray[np.int64]
    correct: NDArray[np.uint8]
    auroc: NDArray[np.float32]
    adapt_seconds: NDArray[np.float64]


def score_episodes(job: EpisodeJob) -> EpisodeScores:
    """Adapt every method on every support of a job, and score all queries. Pure; picklable."""
    learners = [
        (
            build_learner(method.learner),
            build_body(method.model, seed=0).eval(),
            to_tensors(method.theta, job.task.device),
        )
        for method in job.methods
    ]
    n_queries = len(job.drawn[0].query)
    shape = (len(job.methods), len(job.shots))
    correct = np.zeros((*shape, len(job.drawn), n_queries), dtype=np.uint8)
    auroc = np.zeros((*shape, len(job.drawn), n_queries), dtype=np.float32)
    seconds = np.zeros((*shape, len(job.drawn)))
    for e, drawn in enumerate(job.drawn):
        n_way = len(drawn.classes)
        queries = job.task.take(drawn.query)
        truth = np.repeat(np.arange(n_way), n_queries // n_way)
        for s, support in enumerate(_nested_supports(job.task, drawn, job.shots)):
            for m, (learner, body, theta) in enumerate(learners):
                began = job.clock()
                classify = learner.adapt(body, theta, support)
                seconds[m, s, e] = job.clock() - began
                with torch.no_grad():
                    scores = class_scores(classify(queries))
                correct[m, s, e] = is_correct(scores, truth)
                auroc[m, s, e] = auroc_scores(log_odds(scores), truth)
    numbers = np.arange(job.first, job.first + len(job.drawn), dtype=np.int32)
    queried = np.concatenate([drawn.query for drawn in job.drawn])
    return EpisodeScores(
        episode=np.repeat(numbers, n_queries),
        patient=job.task.patients[queried],
        label=job.task.labels[queried],
        support=np.stack(
            [
                job.task.patients[drawn.support].reshape(len(drawn.classes), -1)
                for drawn in job.drawn
            ]
        ),
        correct=correct.reshape(*shape, -1),
        auroc=auroc.reshape(*shape, -1),
        adapt_seconds=seconds,
    )


def _nested_supports(
    task: Task, drawn: EpisodeIndices, shots: tuple[int, ...]
) -> Iterator[Examples]:
    """Give the support of each shot count: the first images of each class."""
    n_way = len(drawn.classes)
    by_class = drawn.support.reshape(n_way, -1)
    flat = task.take(drawn.support)
    images = flat.reshape(*by_class.shape, *flat.shape[1:])
    for k in shots:
        yield Examples(
            images=images[:, :k].flatten(0, 1).contiguous(),
            labels=torch.arange(n_way, device=task.device).repeat_interleave(k),
            n_way=n_way,
        )


def joined(parts: Sequence[EpisodeScores]) -> EpisodeScores:
    """Return the scores of all parts, in their order."""
    return EpisodeScores(
        episode=np.concatenate([part.episode for part in parts]),
        patient=np.concatenate([part.patient for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        support=np.concatenate([part.support for part in parts]),
        correct=np.concatenate([part.correct for part in parts], axis=2),
        auroc=np.concatenate([part.auroc for part in parts], axis=2),
        adapt_seconds=np.concatenate([part.adapt_seconds for part in parts], axis=2),
    )
