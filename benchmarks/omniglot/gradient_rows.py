"""The rows of the learners that adapt by gradient steps: MAML and its relatives, and Reptile."""

from functools import partial

from metaward.adapt_settings import AdaptSettings
from metaward.learner_settings import (
    AnilSettings,
    FomamlSettings,
    MamlSettings,
    MetaSgdSettings,
    ReptileSettings,
)
from omniglot.recipe import (
    FAST_ADAM,
    FIVE_WAY,
    POOLED,
    SMALL,
    STRIDED,
    TWENTY_WAY,
    Row,
    by_shots,
    plan,
)

FROM_ZEROS = AdaptSettings(head="zeros", steps=10, lr=0.1)
FROM_PROTOTYPES = AdaptSettings(head="prototypes", steps=1, lr=0.01)
"""A step as small as the library's default. Larger ones do harm: MAML was right in 84.5 % of
validation characters (5-way 1-shot, 400 outer steps) with 0.1, and in 91.8 % with this."""


def _fomaml(
    n_shot: int, adapt: AdaptSettings, *, inner_lr: float, inner_steps: int
) -> FomamlSettings:
    """Return settings for 20 ways; as in Finn et al. 2017, a new task gets steps of its own."""
    return FomamlSettings(
        n_way=20,
        n_shot=n_shot,
        n_query=5,
        inner_steps=inner_steps,
        inner_lr=inner_lr,
        episodes=1,
        augment="none",
        adapt=adapt,
    )


_fomaml_from_zeros = partial(_fomaml, adapt=FROM_ZEROS, inner_lr=0.4, inner_steps=3)
_fomaml_from_prototypes = partial(_fomaml, adapt=FROM_PROTOTYPES, inner_lr=0.01, inner_steps=1)

FOMAML = Row(
    name="fomaml",
    title="FOMAML, head from zeros",
    published=("fomaml-transductive",),
    quick=(plan(_fomaml_from_zeros(1), FIVE_WAY, STRIDED, FAST_ADAM, steps=3000, budget_s=400),),
    full=by_shots(_fomaml_from_zeros, STRIDED, FAST_ADAM, steps=(10_000, 5000), budget_s=3000),
)  # fmt: skip

PROTO_FOMAML = Row(
    name="proto-fomaml",
    title="FOMAML, head from prototypes",
    published=("fomaml-transductive",),
    quick=(plan(_fomaml_from_prototypes(1), FIVE_WAY, SMALL, FAST_ADAM, steps=700, budget_s=200),),
    full=by_shots(_fomaml_from_prototypes, POOLED, FAST_ADAM, steps=(4500, 2400), budget_s=3000),
)  # fmt: skip


def _reptile(n_way: int) -> ReptileSettings:
    """Return settings with 10 shots, as Nichol et al. 2018, and SGD in the inner loop."""
    return ReptileSettings(
        n_way=n_way,
        n_shot=10,
        inner_steps=8,
        inner_batch=2 * n_way,
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
            _reptile(5), FIVE_WAY, SMALL, FAST_ADAM,
            steps=1000, meta_batch=4, budget_s=400,
        ),
    ),
    full=tuple(
        plan(
            _reptile(columns[0].n_way),
            columns, POOLED, FAST_ADAM, steps=steps, meta_batch=5, budget_s=3000,
        )
        for columns, steps in ((FIVE_WAY, 2000), (TWENTY_WAY, 600))
    ),
)  # fmt: skip


def _maml(n_shot: int, adapt: AdaptSettings) -> MamlSettings:
    """Return settings for 20 ways; in training the inner loop is that of a new task."""
    return MamlSettings(
        n_way=20,
        n_shot=n_shot,
        n_query=5,
        inner_steps=adapt.steps,
        inner_lr=adapt.lr,
        episodes=1,
        augment="none",
        adapt=adapt,
    )


LARGE_STEP = AdaptSettings(head="zeros", steps=1, lr=0.4)
"""Finn et al. 2017, appendix A, 5-way, in training. More such steps do harm with five images."""

MAML = Row(
    name="maml",
    title="MAML, head from zeros",
    published=("maml",),
    quick=(plan(_maml(1, LARGE_STEP), FIVE_WAY, STRIDED, FAST_ADAM, steps=1000, budget_s=300),),
    full=by_shots(
        partial(_maml, adapt=LARGE_STEP), STRIDED, FAST_ADAM, steps=(36_000, 18_000), budget_s=6000
    ),
)  # fmt: skip

PROTO_MAML = Row(
    name="proto-maml",
    title="MAML, head from prototypes",
    published=("maml",),
    quick=(plan(_maml(1, FROM_PROTOTYPES), FIVE_WAY, SMALL, FAST_ADAM, steps=700, budget_s=300),),
    full=by_shots(
        partial(_maml, adapt=FROM_PROTOTYPES),
        POOLED, FAST_ADAM, steps=(10_000, 5000), budget_s=6000,
    ),
)  # fmt: skip


def _anil(n_shot: int) -> AnilSettings:
    """Return settings for 20 ways; the head starts at prototypes, its steps are the library's."""
    return AnilSettings(n_way=20, n_shot=n_shot, n_query=5, episodes=1, augment="none")


ANIL = Row(
    name="anil",
    title="ANIL, head from prototypes",
    published=("anil",),
    quick=(plan(_anil(1), FIVE_WAY, SMALL, FAST_ADAM, steps=1000, budget_s=200),),
    full=by_shots(_anil, POOLED, FAST_ADAM, steps=(6000, 3000), budget_s=3000),
)


def _meta_sgd(n_shot: int) -> MetaSgdSettings:
    """Return settings for 20 ways, one step, and rates that start at the library's 0.01."""
    return MetaSgdSettings(n_way=20, n_shot=n_shot, n_query=5, episodes=1, augment="none")


META_SGD = Row(
    name="meta-sgd",
    title="Meta-SGD, head from prototypes",
    published=("meta-sgd",),
    quick=(plan(_meta_sgd(1), FIVE_WAY, SMALL, FAST_ADAM, steps=700, budget_s=200),),
    full=by_shots(_meta_sgd, POOLED, FAST_ADAM, steps=(2500, 1250), budget_s=3000),
)
