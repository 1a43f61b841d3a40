"""Evaluate on a site that took no part: labelled images against accuracy, method by method.

All methods see the same episodes: the same support to adapt on and the same queries to answer,
so their scores are paired. Within an episode the supports are nested: the first image per class
is the 1-shot support, the first five the 5-shot support, and the queries are the same for all, so
a learning curve compares like with like. One set of labels serves the whole curve.

Episode ``i`` depends on (seed, site, i) alone. How episodes are grouped into jobs, and which
process works on which, changes nothing but the time taken.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.arrays import Arrays, to_tensors
from metaward.episodes import EpisodeIndices, Examples, sample_indices, usable_labels
from metaward.errors import DataError
from metaward.intervals import (
    Estimate,
    clustered_mean,
    paired_difference,
)
from metaward.learner_settings import LearnerSettings
from metaward.meta.compose import build_learner
from metaward.models.body import build_body
from metaward.scoring import auroc_scores, class_probabilities, is_correct
from metaward.study import ModelSettings
from metaward.tasks import Task

EPISODES_PER_JOB = 2
"""Small enough that two cores finish together, large enough that sending a job costs little."""

METRICS: tuple[Literal["accuracy", "auroc"], ...] = ("accuracy", "auroc")

PROBES = 5
"""Episodes drawn to see whether a shot count works out where patients have several labels."""

DRAWS_PER_EPISODE = 5
"""Calls of `sample_indices` before an episode is given up; one is enough in almost every site."""


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
class EvaluationPlan:
    """What to measure at each site.

    Attributes:
        shots: Support images per class, each at least 1.
        n_way: Classes per episode; a site with fewer usable labels uses all of them.
        n_query: Query images per class.
        episodes: Episodes per site, the same for every shot count and method.
    """

    shots: tuple[int, ...] = (1, 5, 10, 20)
    n_way: int = 5
    n_query: int = 10
    episodes: int = 200
    seed: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A shot count that a site's data cannot support, and why."""

    shots: int
    reason: str


@dataclass(frozen=True)
class SiteDesign:
    """What can be measured at one site.

    Attributes:
        shots: Shot counts that are measured, ascending.
        n_way: Classes per episode.
        labels: Names of the labels that episodes draw from.
        left_out: Shot counts of the plan that are not measured.
    """

    shots: tuple[int, ...]
    n_way: int
    labels: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


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
        correct: (n_methods, n_shots, n) uint8, 1 where the most probable class is the true one.
        auroc: (n_methods, n_shots, n) float32; see :func:`metaward.scoring.auroc_scores`.
        adapt_seconds: (n_methods, n_shots, n_episodes) float64. Measured, so it differs between
            runs; nothing else does.
    """

    episode: NDArray[np.int32]
    patient: NDArray[np.int64]
    label: NDArray[np.int64]
    correct: NDArray[np.uint8]
    auroc: NDArray[np.float32]
    adapt_seconds: NDArray[np.float64]


@dataclass(frozen=True)
class SiteEvaluation:
    """All scores of one site."""

    site: str
    design: SiteDesign
    methods: tuple[str, ...]
    scores: EpisodeScores

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int(self.scores.adapt_seconds.shape[2])

    @property
    def queries(self) -> int:
        """Number of scored queries, per method and shot count."""
        return len(self.scores.episode)

    def estimate(self, method: str, shots: int, metric: str = "accuracy") -> Estimate:
        """Return the mean score of ``method`` with its interval; see :mod:`metaward.intervals`."""
        values = self._values(method, shots, metric)
        return clustered_mean(values, self.scores.patient, self.scores.episode)

    def difference(
        self, method: str, reference: str, shots: int, metric: str = "accuracy"
    ) -> Estimate:
        """Return how much better ``method`` scores than ``reference`` on the same queries."""
        return paired_difference(
            self._values(method, shots, metric),
            self._values(reference, shots, metric),
            self.scores.patient,
            self.scores.episode,
        )

    def seconds_to_adapt(self, method: str, shots: int) -> float:
        """Return the median wall time of one adaptation, in seconds."""
        index = self.methods.index(method), self.design.shots.index(shots)
        return float(np.median(self.scores.adapt_seconds[index]))

    def _values(self, method: str, shots: int, metric: str) -> NDArray[np.float64]:
        index = self.methods.index(method), self.design.shots.index(shots)
        match metric:
            case "accuracy":
                return np.asarray(self.scores.correct[index], dtype=np.float64)
            case "auroc":
                return np.asarray(self.scores.auroc[index], dtype=np.float64)
            case _:
                raise ValueError(f"metric {metric!r} is none of {METRICS}")


class JobMap(Protocol):
    """Applies a function to jobs and gives the results in their order, as ``map`` does."""

    def __call__(
        self,
        function: Callable[[EpisodeJob], EpisodeScores],
        jobs: Iterable[EpisodeJob],
        /,
    ) -> Iterable[EpisodeScores]:
        """Return ``function(job)`` for each job, in order. Jobs are made as they are asked for."""
        ...


def evaluate_site(
    task: Task,
    methods: tuple[Method, ...],
    plan: EvaluationPlan,
    map_jobs: JobMap = map,
    *,
    episodes_per_job: int = EPISODES_PER_JOB,
    finished: Callable[[int], None] = lambda _: None,
) -> SiteEvaluation:
    """Score every method on the same episodes of a site.

    Args:
        task: The site's images; none of them may have been used in meta-training.
        methods: At least one, with different names.
        plan: What to measure.
        map_jobs: ``map``, or a pool's ordered map. Jobs and results are picklable; a job carries
            only its own episodes' images.
        episodes_per_job: Grouping; the result does not depend on it.
        finished: Called with the number of episodes finished so far.

    Raises:
        DataError: No shot count of the plan is possible with this site's patients.
    """
    assert methods
    assert len({method.name for method in methods}) == len(methods)
    design = design_for(task, plan)
    jobs = _jobs(task, methods, plan, design, episodes_per_job)
    parts: list[EpisodeScores] = []
    done = 0
    for part in map_jobs(score_episodes, jobs):
        parts.append(part)
        done += part.adapt_seconds.shape[2]
        finished(done)
    return SiteEvaluation(
        site=task.site,
        design=design,
        methods=tuple(method.name for method in methods),
        scores=_joined(parts),
    )


def design_for(task: Task, plan: EvaluationPlan) -> SiteDesign:
    """Say which shot counts a site can be measured at, and with which labels.

    The number of ways is ``plan.n_way``, or the labels usable at the smallest shot count where
    those are fewer. A larger shot count is measured when as many labels are still usable; episodes
    then draw from the labels usable at the largest count measured, for the whole curve.

    Raises:
        DataError: Fewer than two labels are usable at the smallest shot count.
    """
    shots = sorted(set(plan.shots))
    usable = {k: usable_labels(task, n_shot=k, n_query=plan.n_query) for k in shots}
    n_way = min(plan.n_way, len(usable[shots[0]]))
    if n_way < 2:
        raise _too_few_patients(task, shots[0], plan.n_query)
    measured = [k for k in shots if len(usable[k]) >= n_way]
    while not _can_draw(task, plan, n_way=n_way, n_shot=measured[-1]):
        measured.pop()
        if not measured:
            raise _too_few_patients(task, shots[0], plan.n_query)
    return SiteDesign(
        shots=tuple(measured),
        n_way=n_way,
        labels=tuple(task.label_names[label] for label in usable[measured[-1]]),
        left_out=tuple(
            LeftOut(
                k,
                f"{len(usable[k])} of {len(task.label_names)} labels have {k} images to adapt on "
                f"and {plan.n_query} of other patients to score; the curve needs {n_way} such "
                "labels at a time",
            )
            for k in shots
            if k not in measured
        ),
    )


def episode_rng(seed: int, site: str, episode: int) -> np.random.Generator:
    """Return the generator that episode ``episode`` of ``site`` is drawn from."""
    site_key = int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big")
    return np.random.default_rng(np.random.SeedSequence([seed, site_key, episode]))


def score_episodes(job: EpisodeJob) -> EpisodeScores:
    """Adapt every method on every support of a job, and score all queries. Pure; picklable."""
    learners = [
        (
            build_learner(method.learner),
            build_body(method.model, seed=0).eval(),
            to_tensors(method.theta),
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
                    probabilities = class_probabilities(classify(queries))
                correct[m, s, e] = is_correct(probabilities, truth)
                auroc[m, s, e] = auroc_scores(probabilities, truth)
    numbers = np.arange(job.first, job.first + len(job.drawn), dtype=np.int32)
    queried = np.concatenate([drawn.query for drawn in job.drawn])
    return EpisodeScores(
        episode=np.repeat(numbers, n_queries),
        patient=job.task.patients[queried],
        label=job.task.labels[queried],
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
            labels=torch.arange(n_way).repeat_interleave(k),
            n_way=n_way,
        )


def _jobs(
    task: Task,
    methods: tuple[Method, ...],
    plan: EvaluationPlan,
    design: SiteDesign,
    episodes_per_job: int,
) -> Iterator[EpisodeJob]:
    for first in range(0, plan.episodes, episodes_per_job):
        drawn = [
            _draw(task, plan, episode, n_way=design.n_way, n_shot=design.shots[-1])
            for episode in range(first, min(first + episodes_per_job, plan.episodes))
        ]
        rows = np.unique(np.concatenate([np.concatenate([d.support, d.query]) for d in drawn]))
        yield EpisodeJob(
            task=Task(
                site=task.site,
                images=np.array(task.images[rows]),
                labels=task.labels[rows],
                patients=task.patients[rows],
                label_names=task.label_names,
            ),
            methods=methods,
            first=first,
            drawn=tuple(
                EpisodeIndices(
                    d.classes, np.searchsorted(rows, d.support), np.searchsorted(rows, d.query)
                )
                for d in drawn
            ),
            shots=design.shots,
        )


def _draw(
    task: Task, plan: EvaluationPlan, episode: int, *, n_way: int, n_shot: int
) -> EpisodeIndices:
    rng = episode_rng(plan.seed, task.site, episode)
    for _ in range(DRAWS_PER_EPISODE - 1):
        try:
            return sample_indices(task, n_way=n_way, n_shot=n_shot, n_query=plan.n_query, rng=rng)
        except DataError:
            continue
    return sample_indices(task, n_way=n_way, n_shot=n_shot, n_query=plan.n_query, rng=rng)


def _can_draw(task: Task, plan: EvaluationPlan, *, n_way: int, n_shot: int) -> bool:
    try:
        for episode in range(min(PROBES, plan.episodes)):
            _draw(task, plan, episode, n_way=n_way, n_shot=n_shot)
    except DataError:
        return False
    return True


def _joined(parts: list[EpisodeScores]) -> EpisodeScores:
    return EpisodeScores(
        episode=np.concatenate([part.episode for part in parts]),
        patient=np.concatenate([part.patient for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        correct=np.concatenate([part.correct for part in parts], axis=2),
        auroc=np.concatenate([part.auroc for part in parts], axis=2),
        adapt_seconds=np.concatenate([part.adapt_seconds for part in parts], axis=2),
    )


def _too_few_patients(task: Task, n_shot: int, n_query: int) -> DataError:
    counts = ", ".join(
        f"{name}: {sum(len(rows) for rows in task.images_of[label].values())} images of "
        f"{len(task.images_of[label])} patients"
        for label, name in enumerate(task.label_names)
    )
    return DataError(
        f"too few labelled patients to evaluate on ({counts})",
        expected=f"at least 2 labels, each with {n_shot} images to adapt on and {n_query} images "
        "of other patients to score",
        where=f"site {task.site}",
        next_step="Label more patients, or lower the queries per label (n_query) or the shots.",
    )
