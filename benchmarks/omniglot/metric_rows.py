"""The rows of the learners that compare images: prototypical, matching and relation networks."""

from metaward.learner_settings import MatchingSettings, PrototypicalSettings, RelationSettings
from omniglot.recipe import (
    ADAM,
    FAST_ADAM,
    FIVE_WAY,
    POOLED,
    SHOTS,
    SMALL,
    SMALL_STRIDED,
    STRIDED,
    Row,
    plan,
    with_shots,
)


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
            steps=700, budget_s=300,
        ),
    ),
    full=tuple(
        plan(
            _prototypical(n_shot), with_shots(n_shot), POOLED, FAST_ADAM, steps=steps, budget_s=4000
        )
        for n_shot, steps in zip(SHOTS, (3000, 1500), strict=True)
    ),
)  # fmt: skip


def _matching(n_shot: int) -> MatchingSettings:
    """Return 60 ways and 5 queries, as for prototypical networks, and a sharp softmax."""
    return MatchingSettings(
        n_way=60, n_shot=n_shot, n_query=5, temperature=0.0125, episodes=1, augment="none"
    )


MATCHING = Row(
    name="matching",
    title="Matching network",
    published=("matching",),
    quick=(
        plan(
            _matching(1), FIVE_WAY, SMALL, FAST_ADAM, steps=700, budget_s=300,
        ),
    ),
    full=tuple(
        plan(_matching(n_shot), with_shots(n_shot), POOLED, FAST_ADAM, steps=steps, budget_s=3000)
        for n_shot, steps in zip(SHOTS, (1500, 800), strict=True)
    ),
)  # fmt: skip

RELATION = Row(
    name="relation",
    title="Relation network",
    published=("relation",),
    quick=(
        plan(
            RelationSettings(n_way=20, n_shot=1, n_query=5, episodes=1, augment="none"),
            FIVE_WAY, SMALL_STRIDED, ADAM, steps=6000, budget_s=240,
        ),
    ),
    full=tuple(
        plan(
            RelationSettings(
                n_way=20, n_shot=n_shot, n_query=5, filters=64, episodes=1, augment="none"
            ),
            with_shots(n_shot), STRIDED, ADAM, steps=steps, budget_s=3000,
        )
        for n_shot, steps in zip(SHOTS, (8000, 6000), strict=True)
    ),
)  # fmt: skip
