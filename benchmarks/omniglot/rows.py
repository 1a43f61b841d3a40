"""The rows of the table: how each learner is trained, quickly and in full.

A learner comes into the table by one entry in `ROWS`. Its recipe is written out, because what is
compared with a paper is the learner together with its recipe. `quick` is made for fifteen minutes
on two cores, all rows together, and makes one theta for all columns that it is scored in; `full`
trains for each column as the papers do, for hours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from metaward.learner_settings import (
    AdaptSettings,
    FomamlSettings,
    HeadStart,
    LearnerSettings,
    MamlSettings,
    MatchingSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
)
from metaward.study import AdamSettings, ModelSettings, OuterSettings, Study
from omniglot.characters import SIZE
from omniglot.episodes import Setting
from omniglot.published import SETTINGS
from omniglot.training import Training

FIVE_WAY, TWENTY_WAY = SETTINGS[:2], SETTINGS[2:]

POOLED = ModelSettings(filters=64, image_size=SIZE, downsample="pool", groups=8)
"""Vinyals et al. 2016 and Snell et al. 2017."""
STRIDED = ModelSettings(filters=64, image_size=SIZE, downsample="stride", groups=8)
"""Finn et al. 2017 and Nichol et al. 2018, for Omniglot: four times the features of the pooled."""
SMALL = ModelSettings(filters=32, image_size=SIZE, downsample="pool", groups=4)
"""For the quick table. A prototypical network was right in 96.1 % (5-way 1-shot) after 68 CPU
seconds with it, and in 92.5 % after 172 with strides in place of pools, 64 filters and as many
groups."""

SMALL_STRIDED = SMALL.model_copy(update={"downsample": "stride"})
"""The quick relation network's: with pools its maps would be one pixel, and nothing to compare."""

ADAM = AdamSettings(step_size=1.0e-3, beta2=0.999, tau=1.0e-6)
"""The papers' outer optimiser, but for the correction of the first steps' bias. Reptile takes it
too, with its delta in place of a gradient, as Nichol et al. 2018 propose beside the plain step."""
FAST_ADAM = ADAM.model_copy(update={"step_size": 3.0e-3})


EpisodicLearner = TypeVar("EpisodicLearner", FomamlSettings, MamlSettings)


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
    halve_every: int = 0,
    anneal: bool = False,
) -> Plan:
    """Return a plan from seed 0; see :class:`omniglot.training.Training`."""
    study = Study(name="omniglot", rounds=steps, model=model, learner=learner, outer=outer)
    training = Training(
        study=study,
        meta_batch=meta_batch,
        halve_every=halve_every,
        anneal=anneal,
        budget_s=budget_s,
    )
    return Plan(training, columns)


def _prototypical(n_shot: int) -> PrototypicalSettings:
    """Return Snell et al. 2017, section 3.1: 60 ways, 5 queries, as many shots as are tested."""
    return PrototypicalSettings(n_way=60, n_shot=n_shot, n_query=5, episodes=1, augment="none")


PROTOTYPICAL = Row(
    name="prototypical",
    title="Prototypical network",
    published=("prototypical",),
    quick=(
        plan(
            _prototypical(1), FIVE_WAY, SMALL, FAST_ADAM,
            steps=700, anneal=True, budget_s=300,
        ),
    ),
    full=tuple(
        plan(
            _prototypical(n_shot),
            [column for column in SETTINGS if column.n_shot == n_shot],
            POOLED, ADAM, steps=10_000, halve_every=2000, budget_s=12_000,
        )
        for n_shot in (1, 5)
    ),
)  # fmt: skip


def in_meta_batches(learner: EpisodicLearner, column: Setting) -> EpisodicLearner:
    """Return the learner with the tasks of an outer step that Finn et al. 2017 take."""
    return learner.model_copy(update={"episodes": 32 if column.n_way == 5 else 16})


def _fomaml(
    column: Setting,
    head: HeadStart,
    *,
    inner_lr: float,
    inner_steps: int,
    adapt_lr: float = 0.1,
    adapt_steps: int,
) -> FomamlSettings:
    """Return settings for a column; as in Finn et al. 2017, a new task gets steps of its own."""
    return FomamlSettings(
        n_way=column.n_way,
        n_shot=column.n_shot,
        n_query=5,
        inner_steps=inner_steps,
        inner_lr=inner_lr,
        episodes=1,
        augment="none",
        adapt=AdaptSettings(head=head, steps=adapt_steps, lr=adapt_lr),
    )


FOMAML = Row(
    name="fomaml",
    title="FOMAML, head from zeros",
    published=("fomaml-transductive",),
    quick=(
        plan(
            _fomaml(Setting(20, 1), "zeros", inner_lr=0.4, inner_steps=3, adapt_steps=10),
            FIVE_WAY, STRIDED, FAST_ADAM, steps=1000, anneal=True, budget_s=200,
        ),
    ),
    full=tuple(
        plan(
            in_meta_batches(
                _fomaml(column, "zeros", inner_lr=0.4, inner_steps=3, adapt_steps=10), column
            ),
            [column], STRIDED, ADAM, steps=5000, anneal=True, budget_s=20_000,
        )
        for column in SETTINGS
    ),
)  # fmt: skip

PROTO_FOMAML = Row(
    name="proto-fomaml",
    title="FOMAML, head from prototypes",
    published=("fomaml-transductive",),
    quick=(
        plan(
            _fomaml(Setting(20, 1), "prototypes", inner_lr=0.1, inner_steps=1, adapt_steps=1),
            FIVE_WAY, SMALL, FAST_ADAM, steps=700, anneal=True, budget_s=200,
        ),
    ),
    full=tuple(
        plan(
            in_meta_batches(
                _fomaml(column, "prototypes", inner_lr=0.1, inner_steps=1, adapt_steps=1), column
            ),
            [column], POOLED, ADAM, steps=5000, anneal=True, budget_s=20_000,
        )
        for column in SETTINGS
    ),
)  # fmt: skip


def _reptile(n_way: int, *, inner_batch: int, inner_steps: int) -> ReptileSettings:
    """Return settings with 10 shots, as Nichol et al. 2018, and SGD in the inner loop."""
    return ReptileSettings(
        n_way=n_way,
        n_shot=10,
        inner_steps=inner_steps,
        inner_batch=inner_batch,
        inner_lr=0.4,
        episodes=1,
        augment="none",
        adapt=AdaptSettings(head="zeros", steps=8, lr=0.4),
    )


REPTILE = Row(
    name="reptile",
    title="Reptile, head from zeros",
    published=("reptile", "reptile-transductive"),
    quick=(
        plan(
            _reptile(5, inner_batch=10, inner_steps=8), FIVE_WAY, SMALL, FAST_ADAM,
            steps=1000, meta_batch=4, anneal=True, budget_s=400,
        ),
    ),
    full=tuple(
        plan(
            _reptile(
                columns[0].n_way, inner_batch=2 * columns[0].n_way, inner_steps=8
            ).model_copy(update={"episodes": 5}),
            columns, POOLED, ADAM, steps=8000, anneal=True, budget_s=20_000,
        )
        for columns in (FIVE_WAY, TWENTY_WAY)
    ),
)  # fmt: skip


def _maml(column: Setting) -> MamlSettings:
    """Return Finn et al. 2017, appendix A: one step of 0.4 in training, three at a new task."""
    return MamlSettings(
        n_way=column.n_way,
        n_shot=column.n_shot,
        n_query=5,
        inner_steps=1,
        inner_lr=0.4,
        episodes=1,
        augment="none",
        adapt=AdaptSettings(head="zeros", steps=3, lr=0.4),
    )


MAML = Row(
    name="maml",
    title="MAML, head from zeros",
    published=("maml",),
    quick=(
        plan(
            _maml(Setting(20, 1)).model_copy(update={"inner_steps": 2}), FIVE_WAY, STRIDED,
            FAST_ADAM, steps=1000, anneal=True, budget_s=300,
        ),
    ),
    full=tuple(
        plan(
            in_meta_batches(_maml(column), column),
            [column], STRIDED, ADAM, steps=5000, anneal=True, budget_s=20_000,
        )
        for column in SETTINGS
    ),
)  # fmt: skip

MATCHING = Row(
    name="matching",
    title="Matching network",
    published=("matching",),
    quick=(
        plan(
            MatchingSettings(n_way=60, n_shot=1, n_query=5, episodes=1, augment="none"),
            FIVE_WAY, SMALL, FAST_ADAM, steps=700, anneal=True, budget_s=200,
        ),
    ),
    full=tuple(
        plan(
            MatchingSettings(
                n_way=60, n_shot=n_shot, n_query=5, episodes=1, augment="none"
            ),
            [column for column in SETTINGS if column.n_shot == n_shot],
            POOLED, ADAM, steps=10_000, halve_every=2000, budget_s=12_000,
        )
        for n_shot in (1, 5)
    ),
)  # fmt: skip

RELATION = Row(
    name="relation",
    title="Relation network",
    published=("relation",),
    quick=(
        plan(
            RelationSettings(n_way=20, n_shot=1, n_query=5, episodes=1, augment="none"),
            FIVE_WAY, SMALL_STRIDED, ADAM, steps=6000, anneal=True, budget_s=240,
        ),
    ),
    full=tuple(
        plan(
            RelationSettings(
                n_way=20, n_shot=n_shot, n_query=10, filters=64, episodes=1, augment="none"
            ),
            [column for column in SETTINGS if column.n_shot == n_shot],
            STRIDED, ADAM, steps=20_000, halve_every=5000, budget_s=20_000,
        )
        for n_shot in (1, 5)
    ),
)  # fmt: skip

ROWS: tuple[Row, ...] = (PROTOTYPICAL, MATCHING, RELATION, MAML, FOMAML, PROTO_FOMAML, REPTILE)
