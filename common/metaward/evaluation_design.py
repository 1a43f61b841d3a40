"""What can be measured at a site that took no part, and the episodes that it is measured on.

Episode ``i`` depends on the seed, the site, ``i``, and what the plan asks of an episode.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from metaward.episodes import EpisodeIndices, label_counts, sample_indices, usable_labels
from metaward.errors import ConfigError, DataError
from metaward.tasks import Task

PROBES = 5
"""Episodes drawn to see whether a shot count works out where patients have several labels."""

DRAWS_PER_EPISODE = 5
"""Calls of `sample_indices` before an episode is given up; one is enough in almost every site."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What to measure at each site.

    Attributes:
        shots: Support images per class, each at least 1.
        n_way: Classes per episode; a site with fewer usable labels uses all of them.
        n_query: Query images per class.
        episodes: Episodes per site, the same for every shot count and method.

    Raises:
        ConfigError: Nothing could be measured with such numbers.
    """

    shots: tuple[int, ...] = (1, 5, 10, 20)
    n_way: int = 5
    n_query: int = 10
    episodes: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_way": 2, "n_query": 1, "episodes": 1, "seed": 0}
        low = [f"{key} {getattr(self, key)}" for key in least if getattr(self, key) < least[key]]
        if min(self.shots, default=0) < 1:
            low.insert(0, f"shots {self.shots}")
        if low:
            raise ConfigError(
                ", ".join(low),
                expected="shots of 1 or more, n_way of 2 or more, n_query and episodes of 1 or "
                "more, a seed of 0 or more",
                where="evaluation plan",
            )


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
            LeftOut(k, _why_left_out(task, plan, k, n_usable=len(usable[k]), n_way=n_way))
            for k in shots
            if k not in measured
        ),
    )


def _why_left_out(task: Task, plan: EvaluationPlan, k: int, *, n_usable: int, n_way: int) -> str:
    needed = f"{k} images to adapt on and {plan.n_query} of other patients to score"
    if n_usable < n_way:
        return (
            f"{n_usable} of {len(task.label_names)} labels have {needed}; the curve needs {n_way} "
            "such labels at a time"
        )
    return (
        f"patients with several labels are needed on both sides: {n_usable} labels have {needed}, "
        f"but no {n_way} of them at a time"
    )


def episode_rng(seed: int, site: str, episode: int) -> np.random.Generator:
    """Return the generator that episode ``episode`` of ``site`` is drawn from."""
    site_key = int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big")
    return np.random.default_rng(np.random.SeedSequence([seed, site_key, episode]))


def draw_episode(
    task: Task, plan: EvaluationPlan, episode: int, *, n_way: int, n_shot: int
) -> EpisodeIndices:
    """Return the images of one episode, its support drawn for ``n_shot``.

    Raises:
        DataError: The patients cannot be split so.
    """
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
            draw_episode(task, plan, episode, n_way=n_way, n_shot=n_shot)
    except DataError:
        return False
    return True


def _too_few_patients(task: Task, n_shot: int, n_query: int) -> DataError:
    counts = label_counts(task, np.arange(len(task.label_names)))
    return DataError(
        f"too few labelled patients to evaluate on ({counts})",
        expected=f"at least 2 labels, each with {n_shot} images to adapt on and {n_query} images "
        "of other patients to score",
        where=f"site {task.site}",
        next_step="Label more patients, or lower the queries per label (n_query) or the shots.",
    )
