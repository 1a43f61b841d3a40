"""Evaluate on a site that took no part: labelled images against accuracy, method by method.

All methods see the same episodes: the same support to adapt on and the same queries to answer,
so their scores are paired. Within an episode the supports are nested: the first image per class
is the 1-shot support, the first five the 5-shot support, and the queries are the same for all, so
a learning curve compares like with like. One set of labels serves the whole curve.

Episode ``i`` depends on the seed, the site, ``i``, and what the plan asks of an episode: its ways,
its queries and its largest shot count. How episodes are grouped into jobs, and which process works
on which, changes nothing but the time taken.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from metaward.clustered_variance import Draws, SupportRole, support_role
from metaward.episode_scores import EpisodeJob, EpisodeScores, Method, joined, score_episodes
from metaward.episodes import EpisodeIndices
from metaward.evaluation_design import EvaluationPlan, SiteDesign, design_for, draw_episode
from metaward.intervals import Estimate, clustered_mean, paired_difference
from metaward.tasks import Task

EPISODES_PER_JOB = 2
"""Small enough that two cores finish together, large enough that sending a job costs little."""

METRICS: tuple[Literal["accuracy", "auroc"], ...] = ("accuracy", "auroc")
MOST_IN_SUPPORT = 1 / 3
"""Share of the episodes that adapt on a patient, above which what the patient does hardly shows,
and is taken from episodes with fewer shots."""
DEGREES = {"accuracy": 1, "auroc": 2}
"""Patients that one comparison needs; an area compares two."""


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
        return clustered_mean(
            self._values(method, shots, metric),
            self.draws(shots),
            degree=DEGREES[metric],
            adapted=self._support_role(self._values(method, self._telling(shots), metric), shots),
        )

    def difference(
        self, method: str, reference: str, shots: int, metric: str = "accuracy"
    ) -> Estimate:
        """Return how much better ``method`` scores than ``reference`` on the same queries."""
        fewer = self._telling(shots)
        difference = self._values(method, fewer, metric) - self._values(reference, fewer, metric)
        return paired_difference(
            self._values(method, shots, metric),
            self._values(reference, shots, metric),
            self.draws(shots),
            adapted=self._support_role(difference, shots),
        )

    def seconds_to_adapt(self, method: str, shots: int) -> float:
        """Return the median wall time of one adaptation, in seconds."""
        index = self.methods.index(method), self.design.shots.index(shots)
        return float(np.median(self.scores.adapt_seconds[index]))

    def draws(self, shots: int) -> Draws:
        """Return who was asked, and whom a model had adapted on."""
        return self._draws[shots]

    @cached_property
    def _draws(self) -> dict[int, Draws]:
        scores = self.scores
        supports = {
            k: scores.support[:, :, :k].reshape(self.episodes, -1) for k in self.design.shots
        }
        return {
            k: Draws(scores.patient, scores.episode, scores.label, patients)
            for k, patients in supports.items()
        }

    def _telling(self, shots: int) -> int:
        """Return the shot count whose episodes show what single support patients do."""
        fewer = [k for k in self.design.shots if k <= shots]
        telling = [k for k in fewer if self.draws(k).support_share.max() <= MOST_IN_SUPPORT]
        return max(telling, default=fewer[0])

    def _support_role(self, scores: NDArray[np.float64], shots: int) -> SupportRole:
        return support_role(scores - scores.mean(), self.draws(self._telling(shots)))

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
        scores=joined(parts),
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
            draw_episode(task, plan, episode, n_way=design.n_way, n_shot=design.shots[-1])
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
