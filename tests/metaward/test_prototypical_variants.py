"""Prototypes by cosine, and the margin loss: by hand, and against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from metaward.arrays import Tensors
from metaward.errors import ConfigError
from metaward.learner_settings import PrototypicalSettings
from metaward.meta import prototypical
from metaward.meta.compose import build_learner, build_noised_learner
from metaward.meta.learner import LocalResult
from metric_cases import (
    WAYS,
    PixelBody,
    assert_finite_differences_agree,
    assert_minus_gradient,
    assert_same,
    at,
    episode_of,
    examples,
    float64_theta,
    random_episode,
)

COSINE = PrototypicalSettings(distance="cosine")
MARGIN = PrototypicalSettings(loss="margin", margin=0.7)
BOTH = PrototypicalSettings(distance="cosine", temperature=0.5, loss="margin", margin=0.7)
VARIANTS = (COSINE, MARGIN, BOTH)
ids = ["cosine", "margin", "both"]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_logits_of_cosine_are_those_worked_by_hand() -> None:
    # Class means (1, 1) and (0, 2); the query (3, 4) has cosines 7 / (5 sqrt 2) and 4 / 5.
    support = examples([[2, 0], [0, 2], [0, 1], [0, 3]], [0, 0, 1, 1], 2)
    learner = PrototypicalSettings(distance="cosine", temperature=0.2)
    body = PixelBody(channels=2)
    logits = build_learner(learner).adapt(body, at(0.3), support)(examples([[3, 4]], [0], 2).images)
    expected = [[5 * 7 / (5 * math.sqrt(2)), 5 * 4 / 5]]
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-12)


def test_the_margin_loss_is_the_one_worked_by_hand() -> None:
    # Centres 2w and -w; squared distances of the query w (class 0): w^2 and 4 w^2. The hinge is
    # margin + w^2 - 4 w^2, its derivative -6 w; with a larger w it is met, and nothing moves.
    support, query = examples([[1], [3], [-1]], [0, 0, 1], 2), examples([[1]], [0], 2)
    episode = episode_of(support, query)
    near = prototypical.task_delta(PixelBody(), at(0.4), episode, MARGIN)
    assert near.loss == pytest.approx(0.7 - 3 * 0.16, rel=1e-12)
    assert float(near.delta["w"]) == pytest.approx(6 * 0.4, rel=1e-12)
    far = prototypical.task_delta(PixelBody(), at(0.5), episode, MARGIN)
    assert far.loss == float(far.delta["w"]) == 0.0


def test_answers_follow_scipys_distances() -> None:
    body, theta = float64_theta(COSINE)
    episode = random_episode()
    support, query = (
        body.apply_with(theta, part.images).detach().numpy()
        for part in (episode.support, episode.query)
    )
    centres = np.stack([support[episode.support.labels == c].mean(0) for c in range(WAYS)])
    for metric, learner, scale in (
        ("cosine", COSINE, COSINE.temperature),
        ("sqeuclidean", PrototypicalSettings(), math.sqrt(body.features)),
    ):
        logits = build_learner(learner).adapt(body, theta, episode.support)(episode.query.images)
        ours = torch.log_softmax(logits, dim=1)
        theirs = torch.log_softmax(torch.from_numpy(-cdist(query, centres, metric) / scale), dim=1)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("learner", VARIANTS, ids=ids)
def test_the_delta_is_minus_the_gradient_of_the_written_formula(
    learner: PrototypicalSettings,
) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    support = body.apply_with(leaves, episode.support.images)
    query = body.apply_with(leaves, episode.query.images)
    losses = []
    for feature, label in zip(query, episode.query.labels, strict=True):
        scores = []
        for c in range(WAYS):
            centre = support[episode.support.labels == c].mean(0)
            if learner.distance == "cosine":
                cosine = feature @ centre / (feature.norm() * centre.norm())
                scores.append(cosine / learner.temperature)
            else:
                scores.append(-(feature - centre).square().sum() / math.sqrt(body.features))
        if learner.loss == "margin":
            wrong = [c for c in range(WAYS) if c != int(label)]
            gaps = [learner.margin + scores[c] - scores[int(label)] for c in wrong]
            losses.append(sum((gap for gap in gaps if gap > 0), torch.tensor(0.0)))
        else:
            losses.append(torch.stack(scores).logsumexp(0) - scores[int(label)])
    result = prototypical.task_delta(body, theta, episode, learner)
    assert_minus_gradient(result, leaves, torch.stack(losses).mean())


@pytest.mark.parametrize("learner", VARIANTS, ids=ids)
def test_the_delta_agrees_with_finite_differences(learner: PrototypicalSettings) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()

    def delta_at(point: Tensors) -> LocalResult:
        return prototypical.task_delta(body, point, episode, learner)

    assert_finite_differences_agree(delta_at, theta)


def test_the_length_of_a_feature_does_not_count_for_cosine() -> None:
    body = PixelBody(channels=2)
    adapt = build_learner(COSINE).adapt
    support = examples([[2, 0], [1, 1]], [0, 1], 2)
    short, long = examples([[3, 1]], [0], 2), examples([[300, 100]], [0], 2)
    classify = adapt(body, at(0.5), support)
    torch.testing.assert_close(classify(short.images), classify(long.images))


def test_a_feature_of_zeros_has_no_direction_and_a_finite_delta() -> None:
    episode = episode_of(examples([[0, 0], [1, 2]], [0, 1], 2), examples([[0, 0]], [0], 2))
    result = prototypical.task_delta(PixelBody(channels=2), at(0.5), episode, COSINE)
    assert result.loss == pytest.approx(math.log(2))
    assert torch.isfinite(result.delta["w"])


def test_left_out_distance_and_loss_are_those_of_the_paper() -> None:
    (body, theta), episode = float64_theta(COSINE), random_episode()
    written = PrototypicalSettings(distance="squared-euclidean", loss="cross-entropy", margin=9.0)
    one = prototypical.task_delta(body, theta, episode)
    other = prototypical.task_delta(body, theta, episode, written)
    assert one.loss == other.loss
    assert_same(one.delta, other.delta)


@pytest.mark.parametrize("learner", VARIANTS, ids=ids)
def test_no_other_distance_or_loss_works_from_noised_answers(learner: PrototypicalSettings) -> None:
    with pytest.raises(ConfigError, match="expected distance squared-euclidean and loss cross-"):
        build_noised_learner(learner, steps=2)
