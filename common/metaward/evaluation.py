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
from metaward.errors import ConfigError, DataError
from metaward.evaluation_design import EvaluationPlan, SiteDesign, design_for, draw_episode
from metaward.intervals import Estimate, clustered_mean, paired_difference
from metaward.model_artefact import expected_shapes
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
        """Return the mean score of ``method`` with its interval; see :mod:`metaward.intervals`.

        Raises:
            ConfigError: No such method was asked for.
            DataError: The shot count was not measured; the message says why.
        """
        return clustered_mean(
            self._values(method, shots, metric),
            self.draws(shots),
            degree=DEGREES[metric],
            adapted=self._support_role(self._values(method, self._telling(shots), metric), shots),
        )

    def difference(
        self, method: str, reference: str, shots: int, metric: str = "accuracy"
    ) -> Estimate:
        """Return how much better ``method`` scores than ``reference`` on the same queries.

        Raises:
            ConfigError: No such method was asked for.
            DataError: The shot count was not measured; the message says why.
        """
        ours, theirs = (self._values(name, shots, metric) for name in (method, reference))
        fewer = self._telling(shots)
        difference = self._values(method, fewer, metric) - self._values(reference, fewer, metric)
        return paired_difference(
            ours,
            theirs,
            self.draws(shots),
            adapted=self._support_role(difference, shots),
        )

    def seconds_to_adapt(self, method: str, shots: int) -> float:
        """Return the median wall time of one adaptation, in seconds."""
        index = self._place(method, shots)
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
        index = self._place(method, shots)
        match metric:
            case "accuracy":
                return np.asarray(self.scores.correct[index], dtype=np.float64)
            case "auroc":
                return np.asarray(self.scores.auroc[index], dtype=np.float64)
            case _:
                raise ValueError(f"metric {metric!r} is none of {METRICS}")

    def _place(self, method: str, shots: int) -> tuple[int, int]:
        """Return where the scores of a method at a shot count stand.

        Raises:
            ConfigError: No such method was asked for.
            DataError: The shot count was not measured; the message says why.
        """
        if method not in self.methods:
            raise ConfigError(
                f"no method called {method!r}",
                expected=f"one of {', '.join(self.methods)}",
                where=f"evaluation at site {self.site}",
            )
        if shots not in self.design.shots:
            why = [left.reason for left in self.design.left_out if left.shots == shots]
            raise DataError(
                f"{shots} shots were not measured" + "".join(f" ({reason})" for reason in why),
                expected=f"shots {', '.join(map(str, self.design.shots))}",
                where=f"evaluation at site {self.site}",
            )
        return self.methods.index(method), self.design.shots.index(shots)


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
        ConfigError: No methods, two of one name, or one whose theta is another network's.
        DataError: No shot count of the plan is possible with this site's patients.
    """
    _require_methods(methods)
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


def _require_methods(methods: tuple[Method, ...]) -> None:
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"methods called {', '.join(names)}" if names else "no methods",
            expected="methods, each with a name of its own",
            where="evaluation",
        )
    for method in methods:
        expected = expected_shapes(method.model, method.learner)
        found = {name: tuple(leaf.shape) for name, leaf in method.theta.items()}
        wrong = [name for name, shape in expected.items() if found.get(name) != shape]
        if wrong:
            raise ConfigError(
                f"{len(wrong)} leaves of theta are missing or of another shape, as {wrong[0]}: "
                f"{found.get(wrong[0], 'missing')}",
                expected=f"{expected[wrong[0]]}, as the method's model and learner have it",
                where=f"method {method.name}",
                next_step="Begin from metaward.meta.compose.initial_parameters(model, learner, "
                "seed).",
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
