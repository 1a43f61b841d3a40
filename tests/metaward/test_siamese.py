"""Siamese networks: by hand, against the written formulas, and how several images decide."""

import math
from typing import Literal

import pytest
import torch

from metaward.arrays import Tensors
from metaward.learner_settings import PrototypicalSettings, SiameseSettings
from metaward.meta import siamese
from metaward.meta.compose import build_learner, initial_parameters
from metric_cases import (
    MODEL,
    PixelBody,
    assert_minus_gradient,
    at,
    episode_of,
    examples,
    float64_theta,
    random_episode,
)

CROSS_ENTROPY = SiameseSettings()
CONTRASTIVE = SiameseSettings(loss="contrastive")
Loss = Literal["cross-entropy", "contrastive"]

pytestmark = pytest.mark.usefixtures("one_thread")


def with_own(w: float, alpha: list[float], b: float) -> Tensors:
    own = {"learner.weight": torch.tensor(alpha), "learner.bias": torch.tensor([b])}
    return at(w) | {name: leaf.double() for name, leaf in own.items()}


def test_the_cross_entropy_of_pairs_is_the_one_worked_by_hand() -> None:
    # |f(x) - f(s)| is (1, 0) w for the same label and (1, 1) w for the other. With w = 1, alpha =
    # (-1/2, -1) and b = 1: z = 1/2 and -1/2. Both pairs lose log(1 + exp(-1/2)), and with
    # p = sigmoid(-1/2): dL/dw = (-p (-1/2) + p (-3/2)) / 2 = -p / 2; dL/db = (-p + p) / 2 = 0;
    # dL/dalpha = (-p (1, 0) + p (1, 1)) / 2 = (0, p / 2).
    support, query = examples([[0, 0], [2, 1]], [0, 1], 2), examples([[1, 0]], [0], 2)
    theta = with_own(1.0, [-0.5, -1.0], 1.0)
    episode = episode_of(support, query)
    result = siamese.task_delta(PixelBody(channels=2), theta, episode, CROSS_ENTROPY)
    p = 1 / (1 + math.exp(0.5))
    assert result.loss == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-12)
    assert float(result.delta["w"]) == pytest.approx(p / 2, rel=1e-12)
    assert result.delta["learner.weight"].tolist() == pytest.approx([0.0, -p / 2], abs=1e-15)
    assert float(result.delta["learner.bias"]) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(
    ("w", "loss", "delta"),
    [
        # D is w for the same label and 2 w for the other; L = w^2 / 4 + max(0, 1 - 2 w)^2 / 4,
        # dL/dw = w / 2 - max(0, 1 - 2 w).
        (0.3, 0.0225 + 0.04, 0.4 - 0.15),
        (0.6, 0.09, -0.3),
    ],
)
def test_the_contrastive_loss_is_the_one_worked_by_hand(
    w: float, loss: float, delta: float
) -> None:
    episode = episode_of(examples([[0], [3]], [0, 1], 2), examples([[1]], [0], 2))
    result = siamese.task_delta(PixelBody(), at(w), episode, CONTRASTIVE)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert float(result.delta["w"]) == pytest.approx(delta, rel=1e-12)


@pytest.mark.parametrize("learner", [CROSS_ENTROPY, CONTRASTIVE], ids=lambda s: s.loss)
def test_the_delta_is_minus_the_gradient_of_the_papers_formulas(learner: SiameseSettings) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    support = body.apply_with(leaves, episode.support.images)
    query = body.apply_with(leaves, episode.query.images)
    losses: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for x, label in zip(query, episode.query.labels, strict=True):
        for s, other in zip(support, episode.support.labels, strict=True):
            same = bool(label == other)
            if learner.loss == "cross-entropy":
                z = leaves["learner.bias"][0] + leaves["learner.weight"] @ (x - s).abs()
                p = 1 / (1 + torch.exp(-z))
                losses[same].append(-(p if same else 1 - p).log())
            else:
                d = ((x - s) ** 2).mean().sqrt()
                short = torch.clamp(learner.margin - d, min=0)
                losses[same].append(d**2 / 2 if same else short**2 / 2)
    loss = (torch.stack(losses[True]).mean() + torch.stack(losses[False]).mean()) / 2
    assert_minus_gradient(siamese.task_delta(body, theta, episode, learner), leaves, loss)


@pytest.mark.parametrize("loss", ["cross-entropy", "contrastive"])
def test_more_classes_do_not_make_pairs_of_the_same_label_count_less(loss: Loss) -> None:
    learner = SiameseSettings(loss=loss)
    theta = with_own(0.3, [-1.0], 0.2) if loss == "cross-entropy" else at(0.3)
    query = [[1]], [0]
    two = episode_of(examples([[0], [3]], [0, 1], 2), examples(*query, 2))
    four = episode_of(examples([[0], [3], [3], [3]], [0, 1, 2, 3], 4), examples(*query, 4))
    one, same = (siamese.task_delta(PixelBody(), theta, e, learner) for e in (two, four))
    assert same.loss == pytest.approx(one.loss, rel=1e-12)
    assert float(same.delta["w"]) == pytest.approx(float(one.delta["w"]), rel=1e-12)


def test_equal_images_of_different_labels_have_a_finite_delta() -> None:
    episode = episode_of(examples([[2], [2]], [0, 1], 2), examples([[2]], [0], 2))
    result = siamese.task_delta(PixelBody(), at(0.5), episode, CONTRASTIVE)
    assert result.loss == pytest.approx(0.25)  # (0 + margin^2 / 2) / 2
    assert torch.isfinite(result.delta["w"])


@pytest.mark.parametrize("learner", [CROSS_ENTROPY, CONTRASTIVE], ids=lambda s: s.loss)
def test_of_several_images_the_most_alike_speaks_for_its_class(learner: SiameseSettings) -> None:
    # The mean of class 0 is nearer to the query than any image of class 1 but one.
    support = examples([[0], [10], [4.5], [-90]], [0, 0, 1, 1], 2)
    theta = with_own(0.1, [-1.0], 0.5) if learner is CROSS_ENTROPY else at(0.1)
    adapt = build_learner(learner).adapt
    logits = adapt(PixelBody(), theta, support)(examples([[5], [9]], [0, 0], 2).images)
    apart = torch.tensor([[0.5, 0.05], [0.1, 0.45]], dtype=torch.float64)
    expected = 0.5 - apart if learner is CROSS_ENTROPY else -(apart**2)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)


def test_one_image_per_class_and_the_contrastive_distance_are_a_prototypical_network() -> None:
    (body, theta), episode = float64_theta(CONTRASTIVE), random_episode(shots=1)
    ours, theirs = (
        build_learner(learner).adapt(body, theta, episode.support)(episode.query.images)
        for learner in (CONTRASTIVE, PrototypicalSettings())
    )
    torch.testing.assert_close(
        ours.log_softmax(dim=1), theirs.log_softmax(dim=1), rtol=1e-9, atol=1e-9
    )


def test_an_untrained_network_stands_half_way_between_equal_images_and_strangers() -> None:
    theta = initial_parameters(MODEL, CROSS_ENTROPY, 0)
    d = MODEL.filters
    generator = torch.Generator().manual_seed(0)
    relus = torch.randn(2, 4000, d, generator=generator).relu()
    z = siamese.likeness(theta, (relus[0] - relus[1])[:, None])
    equal = float(siamese.likeness(theta, torch.zeros(1, 1, d)))
    assert equal == pytest.approx(0.28 * math.sqrt(d))
    assert float(z.mean()) == pytest.approx(-equal, rel=0.05)
