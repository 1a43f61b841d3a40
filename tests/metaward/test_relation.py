"""Relation networks: by hand, against the written formula, and what the logits mean."""

import math

import numpy as np
import pytest
import torch

from metaward.arrays import Tensors
from metaward.learner_settings import RelationSettings
from metaward.meta import relation
from metaward.meta.compose import build_learner, initial_parameters
from metaward.meta.relation import HIDDEN, RelationNetwork
from metaward.model_settings import ModelSettings
from metric_cases import (
    MODEL,
    WAYS,
    PixelBody,
    assert_minus_gradient,
    at,
    episode_of,
    examples,
    float64_theta,
    random_episode,
)

PAPER = RelationSettings(filters=4, loss="squared", class_map="sum")
MEAN = RelationSettings(filters=4, loss="squared", class_map="mean")
DEFAULT = RelationSettings(filters=4)
EPS = 1e-5  # of a GroupNorm

pytestmark = pytest.mark.usefixtures("one_thread")


def first_minus_second() -> Tensors:
    """Leaves with which g is the first map's pixel less the second's, normed twice, plus 0.25.

    Each convolution gives (a, -a, b, -b) of its two inputs: mean 0, variance (a^2 + b^2) / 2.
    """
    first, second = torch.zeros(4, 2, 3, 3), torch.zeros(4, 4, 3, 3)
    for channel, (source, sign) in enumerate([(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)]):
        first[channel, source, 1, 1] = sign
        second[channel, 2 * source, 1, 1] = sign
    hidden = torch.zeros(HIDDEN, 4)
    hidden[0, 0] = hidden[1, 2] = 1.0
    score = torch.zeros(1, HIDDEN)
    score[0, 0], score[0, 1] = 1.0, -1.0
    leaves = {
        "convs.0.weight": first,
        "convs.1.weight": second,
        "norms.0.weight": torch.ones(4),
        "norms.0.bias": torch.zeros(4),
        "norms.1.weight": torch.ones(4),
        "norms.1.bias": torch.zeros(4),
        "hidden.weight": hidden,
        "hidden.bias": torch.zeros(HIDDEN),
        "score.weight": score,
        "score.bias": torch.tensor([0.25]),
    }
    return {f"learner.{name}": leaf.double() for name, leaf in leaves.items()}


def by_hand(class_pixel: float, query_pixel: float) -> float:
    r = math.sqrt((class_pixel**2 + query_pixel**2) / 2 + EPS)
    a, b = class_pixel / r, query_pixel / r  # both positive: the ReLU keeps them, and drops -a, -b
    return (a - b) / math.sqrt((a**2 + b**2) / 2 + EPS) + 0.25


@pytest.mark.parametrize(
    ("learner", "classes"), [(PAPER, (3.0, 5.0)), (MEAN, (1.5, 5.0))], ids=["sum", "mean"]
)
def test_the_relations_are_those_worked_by_hand(
    learner: RelationSettings, classes: tuple[float, float]
) -> None:
    # Class 0 has the pixels 1 and 2, class 1 has 5; the query is 4; w = 1.
    support, query = examples([[1], [2], [5]], [0, 0, 1], 2), examples([[4]], [1], 2)
    theta = at(1.0) | first_minus_second()
    classify = build_learner(learner).adapt(PixelBody(), theta, support)
    expected = [by_hand(pixel, 4.0) for pixel in classes]
    np.testing.assert_allclose(classify(query.images)[0].numpy(), expected, rtol=1e-12)
    loss = relation.task_delta(PixelBody(), theta, episode_of(support, query), learner).loss
    r = [1 / (1 + math.exp(-z)) for z in expected]
    assert loss == pytest.approx(((r[0] - 0) ** 2 + (r[1] - 1) ** 2) / 2, rel=1e-12)


def written_out(own: Tensors, pair: torch.Tensor) -> torch.Tensor:
    """g of one pair, with the norm and the pool in plain arithmetic."""
    maps = pair
    for block in "01":
        weight = own[f"learner.convs.{block}.weight"]
        maps = torch.nn.functional.conv2d(maps[None], weight, padding=1)[0]
        maps = (maps - maps.mean()) / (maps.var(correction=0) + EPS).sqrt()
        scale, shift = (own[f"learner.norms.{block}.{leaf}"] for leaf in ("weight", "bias"))
        maps = (maps * scale[:, None, None] + shift[:, None, None]).clamp_min(0)
        half = maps.shape[1] // 2
        if half:
            maps = maps[:, : 2 * half, : 2 * half].unflatten(1, (half, 2)).unflatten(3, (half, 2))
            maps = maps.amax(dim=(2, 4))
    hidden = own["learner.hidden.weight"] @ maps.flatten() + own["learner.hidden.bias"]
    score = own["learner.score.weight"] @ hidden.clamp_min(0)
    return score[0] + own.get("learner.score.bias", torch.zeros(1))[0]


@pytest.mark.parametrize(
    "model",
    [
        MODEL,  # maps of 1 pixel
        MODEL.model_copy(update={"image_size": 64}),  # 4 x 4: pooled to 1
        MODEL.model_copy(update={"downsampled_blocks": 2}),  # 4 x 4 too, of small images
        ModelSettings(name="resnet", filters=4, groups=1, image_size=33),  # 5 x 5: to 2, to 1
        ModelSettings(name="resnet", filters=4, groups=1, image_size=80),  # 10 x 10: to 5, to 2
    ],
    ids=lambda model: f"{model.name}-{model.image_size}-{model.downsampled_blocks}",
)
def test_the_delta_is_minus_the_gradient_of_the_papers_formula(model: ModelSettings) -> None:
    body, theta = float64_theta(PAPER, model)
    episode = random_episode(size=model.image_size)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    support = body.maps_with(leaves, episode.support.images)
    query = body.maps_with(leaves, episode.query.images)
    assert support.shape[1:] == (body.map_channels, body.map_side, body.map_side)
    squares = []
    for asked, label in zip(query, episode.query.labels, strict=True):
        for c in range(WAYS):
            of_class = support[episode.support.labels == c].sum(0)
            r = torch.sigmoid(written_out(leaves, torch.cat([of_class, asked])))
            squares.append((r - float(label == c)) ** 2)
    result = relation.task_delta(body, theta, episode, PAPER)
    assert_minus_gradient(result, leaves, torch.stack(squares).mean())


def test_by_default_the_loss_is_the_cross_entropy_of_the_scores_against_mean_maps() -> None:
    body, theta = float64_theta(DEFAULT)
    episode = random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    support = body.maps_with(leaves, episode.support.images)
    query = body.maps_with(leaves, episode.query.images)
    surprises = []
    for asked, label in zip(query, episode.query.labels.tolist(), strict=True):
        of_classes = [support[episode.support.labels == c].mean(0) for c in range(WAYS)]
        scores = [written_out(leaves, torch.cat([of_class, asked])) for of_class in of_classes]
        surprises.append(torch.stack(scores).exp().sum().log() - scores[label])
    result = relation.task_delta(body, theta, episode, DEFAULT)
    assert_minus_gradient(result, leaves, torch.stack(surprises).mean())


def test_what_a_softmax_would_not_see_is_no_leaf() -> None:
    assert "learner.score.bias" in float64_theta(PAPER)[1]
    for unseen_by in (DEFAULT, DEFAULT.model_copy(update={"loss": "margin"})):
        assert "learner.score.bias" not in float64_theta(unseen_by)[1]


def test_probabilities_are_what_the_relations_say_once_exactly_one_holds() -> None:
    (body, theta), episode = float64_theta(PAPER), random_episode()
    z = build_learner(PAPER).adapt(body, theta, episode.support)(episode.query.images)
    r = torch.sigmoid(z).numpy()
    alone = np.stack([r[:, k] * np.delete(1 - r, k, axis=1).prod(1) for k in range(WAYS)], axis=1)
    np.testing.assert_allclose(
        torch.softmax(z, dim=1), alone / alone.sum(axis=1, keepdims=True), rtol=1e-9
    )


def test_showing_each_image_twice_changes_a_sum_and_not_a_mean() -> None:
    episode = random_episode()
    twice = type(episode.support)(
        episode.support.images.repeat(2, 1, 1, 1), episode.support.labels.repeat(2), WAYS
    )
    for learner, same in ((PAPER, False), (MEAN, True)):
        body, theta = float64_theta(learner)
        one, other = (
            build_learner(learner).adapt(body, theta, support)(episode.query.images)
            for support in (episode.support, twice)
        )
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9) == same


def test_the_comparing_network_keeps_no_statistics_of_patients() -> None:
    network = RelationNetwork(channels=8, side=2, filters=8, offset=True)
    assert list(network.buffers()) == []
    maps = torch.randn(8, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    classes, asked = maps[:3], maps[3:]
    torch.testing.assert_close(network(classes, asked)[2:3], network(classes, asked[2:3]))
    torch.testing.assert_close(network(classes, asked)[:, 1:2], network(classes[1:2], asked))


@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_before_training_each_class_is_as_likely_as_it_is_by_chance(n_way: int) -> None:
    settings = RelationSettings(n_way=n_way, loss="squared")
    theta = initial_parameters(MODEL, settings, seed=0)
    bias = float(theta["learner.score.bias"])
    assert 1 / (1 + math.exp(-bias)) == pytest.approx(1 / n_way)
