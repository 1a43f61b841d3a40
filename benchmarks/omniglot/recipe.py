"""What a row of the table is, and what the recipes of several rows share: networks and Adam."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metaward.learner_settings import LearnerSettings
from metaward.model_settings import ModelSettings
from metaward.study import AdamSettings, OuterSettings, Study
from omniglot.characters import SIZE
from omniglot.episodes import Setting
from omniglot.published import SETTINGS
from omniglot.training import Training

FIVE_WAY, TWENTY_WAY = SETTINGS[:2], SETTINGS[2:]
SHOTS = (1, 5)
"""Of the papers' columns; a full row has a training for each."""

POOLED = ModelSettings(filters=64, image_size=SIZE, downsample="pool", groups=8)
"""Vinyals et al. 2016 and Snell et al. 2017."""
STRIDED = ModelSettings(filters=64, image_size=SIZE, downsample="stride", groups=8)
"""Finn et al. 2017 and Nichol et al. 2018, for Omniglot: four times the features of the pooled."""
SMALL = ModelSettings(filters=32, image_size=SIZE, downsample="pool", groups=4)
"""For the quick table. A prototypical network was right in 96.1 % (5-way 1-shot) after 68 CPU
seconds with it, and in 92.5 % after 172 with strides in place of pools, 64 filters and as many
groups."""

LARGE_MAPS = STRIDED.model_copy(update={"downsampled_blocks": 2})
"""Relation networks': of 7 x 7, where four halvings leave 2 x 2 and little to compare. Sung et al.
2018 halve twice too, by pools, and have 5 x 5."""
SMALL_STRIDED = SMALL.model_copy(update={"downsample": "stride"})
SMALL_LARGE_MAPS = SMALL_STRIDED.model_copy(update={"downsampled_blocks": 2})

ADAM = AdamSettings(step_size=1.0e-3, beta2=0.999, tau=1.0e-6)
"""The papers' outer optimiser, but for the correction of the first steps' bias. Reptile takes it
too, with its delta in place of a gradient, as Nichol et al. 2018 propose beside the plain step."""
FAST_ADAM = ADAM.model_copy(update={"step_size": 3.0e-3})


@dataclass(frozen=True)
class Plan:
    """One training, and the columns that it is scored in."""

    training: Training
    columns: Sequence[Setting]


@dataclass(frozen=True)
class Row:
    """A learner in the table.

    Attributes:
        name: Key, and name of its folders of checkpoints.
        title: What a reader sees.
        published: Keys of `PUBLISHED` that it is compared with.
        quick: Trainings of the quick table.
        full: Those of the full table; no column is scored after two of them.
    """

    name: str
    title: str
    published: tuple[str, ...]
    quick: tuple[Plan, ...]
    full: tuple[Plan, ...]


def plan(
    learner: LearnerSettings,
    columns: Sequence[Setting],
    model: ModelSettings,
    outer: OuterSettings,
    *,
    steps: int,
    budget_s: float,
    meta_batch: int = 1,
) -> Plan:
    """Return a plan from seed 0; see :class:`omniglot.training.Training`."""
    study = Study(name="omniglot", rounds=steps, model=model, learner=learner, outer=outer)
    training = Training(
        study=study,
        meta_batch=meta_batch,
        anneal=True,
        budget_s=budget_s,
    )
    return Plan(training, columns)


def by_shots(
    learner_of: Callable[[int], LearnerSettings],
    model: ModelSettings,
    outer: OuterSettings,
    *,
    steps: tuple[int, int],
    budget_s: float,
) -> tuple[Plan, ...]:
    """Return a training for each number of shots, scored in the columns that have it."""
    return tuple(
        plan(
            learner_of(n_shot),
            [column for column in SETTINGS if column.n_shot == n_shot],
            model, outer, steps=of_shots, budget_s=budget_s,
        )
        for n_shot, of_shots in zip(SHOTS, steps, strict=True)
    )  # fmt: skip
