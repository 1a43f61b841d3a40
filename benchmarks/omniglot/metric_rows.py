"""The rows of the learners that compare images: prototypical, with a generator too, and others."""

from functools import partial

from metaward.learner_settings import (
    HallucinationSettings,
    MatchingSettings,
    PrototypicalSettings,
    RelationSettings,
    SiameseSettings,
)
from omniglot.published import SETTINGS
from omniglot.recipe import (
    ADAM,
    FAST_ADAM,
    FIVE_WAY,
    LARGE_MAPS,
    POOLED,
    SMALL,
    SMALL_LARGE_MAPS,
    Row,
    by_shots,
    plan,
)


def _prototypical(n_shot: int) -> PrototypicalSettings:
    """Return Snell et al. 2017, section 3.1: 60 ways, 5 queries, as many shots as are tested."""
    return PrototypicalSettings(n_way=60, n_shot=n_shot, n_query=5, episodes=1, augment="none")


PROTOTYPICAL = Row(
    name="prototypical",
    title="Prototypical network",
    published=("prototypical",),
    quick=(plan(_prototypical(1), FIVE_WAY, SMALL, FAST_ADAM, steps=700, budget_s=300),),
    full=by_shots(_prototypical, POOLED, FAST_ADAM, steps=(9000, 4500), budget_s=12_000),
)


def _hallucination(n_shot: int) -> HallucinationSettings:
    """Return the prototypical network's episodes, and the library's generator and discriminator."""
    return HallucinationSettings(n_way=60, n_shot=n_shot, n_query=5, episodes=1, augment="none")


HALLUCINATION = Row(
    name="hallucination",
    title="Prototypical network with a generator",
    published=(),
    quick=(plan(_hallucination(1), FIVE_WAY, SMALL, FAST_ADAM, steps=700, budget_s=300),),
    full=by_shots(_hallucination, POOLED, FAST_ADAM, steps=(9000, 4500), budget_s=12_000),
)


def _matching(n_shot: int) -> MatchingSettings:
    """Return 60 ways and 5 queries, as for prototypical networks, and a sharp softmax."""
    return MatchingSettings(
        n_way=60, n_shot=n_shot, n_query=5, temperature=0.0125, episodes=1, augment="none"
    )


MATCHING = Row(
    name="matching",
    title="Matching network",
    published=("matching",),
    quick=(plan(_matching(1), FIVE_WAY, SMALL, FAST_ADAM, steps=700, budget_s=300),),
    full=by_shots(_matching, POOLED, FAST_ADAM, steps=(1500, 800), budget_s=3000),
)


def _relation(n_shot: int, filters: int) -> RelationSettings:
    """Return 20 ways and 5 queries; the comparing network is as wide as the body."""
    return RelationSettings(
        n_way=20, n_shot=n_shot, n_query=5, filters=filters, episodes=1, augment="none"
    )


RELATION = Row(
    name="relation",
    title="Relation network",
    published=("relation",),
    quick=(plan(_relation(1, 32), FIVE_WAY, SMALL_LARGE_MAPS, ADAM, steps=2500, budget_s=240),),
    full=by_shots(
        partial(_relation, filters=64), LARGE_MAPS, ADAM, steps=(12_000, 9000), budget_s=6000
    ),
)

SIAMESE_LEARNER = SiameseSettings(n_way=20, n_shot=5, n_query=5, episodes=1, augment="none")
"""Pairs are all that it learns from, so one training serves every column."""

SIAMESE = Row(
    name="siamese",
    title="Siamese network",
    published=("siamese",),
    quick=(plan(SIAMESE_LEARNER, FIVE_WAY, SMALL, FAST_ADAM, steps=1000, budget_s=200),),
    full=(plan(SIAMESE_LEARNER, SETTINGS, POOLED, FAST_ADAM, steps=5000, budget_s=3000),),
)
