"""The margin loss: against torch, and by hand where matching and relation networks take it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from metaward.learner_settings import MatchingSettings, RelationSettings
from metaward.meta import matching, relation
from metaward.meta.compose import build_learner
from metaward.meta.episode_loss import margin_loss
from metric_cases import (
    PixelBody,
    assert_minus_gradient,
    at,
    episode_of,
    examples,
    float64_theta,
    random_episode,
)

MATCHING = MatchingSettings(temperature=0.5, loss="margin", margin=0.7)
RELATION = RelationSettings(filters=4, loss="margin", margin=0.7)

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.floats(0.01, 5.0))
def test_the_margin_loss_is_torchs_without_its_division_by_the_number_of_classes(
    seed: int, n_way: int, margin: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(7, n_way)) * 3)
    labels = torch.from_numpy(rng.integers(0, n_way, size=7))
    expected = F.multi_margin_loss(logits, labels, margin=margin) * n_way
    torch.testing.assert_close(margin_loss(logits, labels, margin), expected)


@pytest.mark.parametrize(("label", "hinge"), [(0, 0.0), (1, 0.7 + math.log1p(math.exp(2.0)))])
def test_a_matching_networks_margin_is_between_the_logarithms_of_attention(
    label: int, hinge: float
) -> None:
    # Cosines of the query (1, 0) to the support: 1, 0 (class 0) and 0 (class 1); over 0.5 they are
    # 2, 0 and 0. Logits: log(e^2 + 1) and 0, 2.13 apart.
    support = examples([[2, 0], [0, 3], [0, 8]], [0, 0, 1], 2)
    episode = episode_of(support, examples([[1, 0]], [label], 2))
    result = matching.task_delta(PixelBody(channels=2), at(1.0), episode, MATCHING)
    assert result.loss == pytest.approx(hinge, rel=1e-12)


def test_a_relation_networks_margin_is_between_its_scores() -> None:
    body, theta = float64_theta(RELATION)
    episode = random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    maps = body.maps_with(leaves, episode.support.images)
    asked = body.maps_with(leaves, episode.query.images)
    classes = relation.class_maps(maps, episode.support, RELATION)
    scores = relation.logits(leaves, classes, asked, RELATION)
    hinges = []
    for of_query, label in zip(scores, episode.query.labels.tolist(), strict=True):
        wrong = [score for k, score in enumerate(of_query) if k != label]
        hinges.append(sum(F.relu(0.7 + score - of_query[label]) for score in wrong))
    result = relation.task_delta(body, theta, episode, RELATION)
    assert_minus_gradient(result, leaves, torch.stack(hinges).mean())


@pytest.mark.parametrize("learner", [MATCHING, RELATION], ids=["matching", "relation"])
def test_at_a_new_site_the_margin_has_no_part(learner: MatchingSettings | RelationSettings) -> None:
    body, theta = float64_theta(learner)
    episode = random_episode()
    default = learner.model_copy(update={"loss": "cross-entropy"})
    ours, theirs = (
        build_learner(settings).adapt(body, theta, episode.support)(episode.query.images)
        for settings in (learner, default)
    )
    assert torch.equal(ours, theirs)
