"""ANIL by hand, against finite differences and MAML; and what its inner loop leaves alone."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Episode
from metaward.learner_settings import AnilSettings, PrototypicalSettings
from metaward.meta import anil, prototypical
from metaward.meta.compose import build_learner
from metaward.models.body import Body
from toy_episodes import (
    SHOTS,
    WAYS,
    ScalarBody,
    assert_same,
    conv_body,
    inner_product,
    random_episode,
    rearranged,
    scalar_episode,
    sigmoid,
    slope_along,
    smooth_body,
)

A, W = 0.7, 1.3  # inner learning rate and the scalar body's one parameter

pytestmark = pytest.mark.usefixtures("one_thread", "float64")


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def anil_of(**given: Any) -> AnilSettings:  # Any: keys of the settings
    head = given.pop("head", "prototypes")
    return AnilSettings(adapt=AdaptSettings(head=head), **given)


def plain_meta_loss(
    body: Body, episode: Episode, *, head: str, steps: int, lr: float
) -> Callable[[Tensors], float]:
    """Return theta -> L(head_K; query), with the gradient of a linear softmax written out."""
    support, query = episode.support, episode.query
    one_hot = F.one_hot(support.labels, WAYS).double()

    def meta_loss(theta: Tensors) -> float:
        f_s, f_q = (body.apply_with(theta, e.images) for e in (support, query))
        centres = one_hot.T @ f_s / SHOTS
        weight = 2 * centres / math.sqrt(body.features)
        bias = -centres.square().sum(1) / math.sqrt(body.features)
        if head == "zeros":
            weight, bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for _ in range(steps):
            error = (f_s @ weight.T + bias).softmax(1) - one_hot
            weight = weight - lr * error.T @ f_s / len(f_s)
            bias = bias - lr * error.mean(0)
        return float(F.cross_entropy(f_q @ weight.T + bias, query.labels).detach())

    return meta_loss


def test_the_meta_gradient_is_the_one_worked_by_hand() -> None:
    # Two steps from zeros. The head stays (s, -s) by symmetry, s_0 = 0, and each support image is
    # at logit distance 2 s w, so s_{k+1} = s_k + a w sigmoid(-2 s_k w): s_1 = a w / 2 and
    # s_2 = s_1 + a w sigmoid(-a w^2). Query at w: L = log(1 + exp(-2 s_2 w)), and by the chain rule
    # with u = a w^2 and 2 s_2 w = u + 2 u sigmoid(-u):
    # d(2 s_2 w)/dw = 2 a w (1 + 2 sigmoid(-u) - 2 u sigmoid(u) sigmoid(-u)).
    u = A * W**2
    margin = u + 2 * u * sigmoid(-u)
    slope = 2 * A * W * (1 + 2 * sigmoid(-u) - 2 * u * sigmoid(u) * sigmoid(-u))
    given_settings = anil_of(inner_steps=2, inner_lr=A, head="zeros")
    result = anil.task_delta(ScalarBody(), {"w": torch.tensor(W)}, scalar_episode(), given_settings)
    assert result.loss == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-12)
    assert float(result.delta["w"]) == pytest.approx(sigmoid(-margin) * slope, rel=1e-12)


@pytest.mark.parametrize(
    ("head", "steps"),
    [("prototypes", 0), ("prototypes", 1), ("prototypes", 4), ("zeros", 1), ("zeros", 4)],
)
def test_the_meta_gradient_is_that_of_finite_differences(steps: int, head: str) -> None:
    (body, theta), episode = smooth_body(), random_episode(side=4)
    given_settings = anil_of(inner_steps=steps, inner_lr=0.5, head=head)
    meta_loss = plain_meta_loss(body, episode, head=head, steps=steps, lr=0.5)
    result = anil.task_delta(body, theta, episode, given_settings)
    torch.manual_seed(0)
    direction = {name: torch.randn_like(leaf) for name, leaf in theta.items()}
    slope = slope_along(meta_loss, theta, direction, h=1e-5)
    assert result.loss == pytest.approx(meta_loss(theta), rel=1e-12)
    assert -inner_product(result.delta, direction) == pytest.approx(slope, rel=1e-7, abs=1e-10)


def test_without_inner_steps_it_is_a_prototypical_network() -> None:
    (body, theta), episode = conv_body(), random_episode()
    ours = anil.task_delta(body, theta, episode, anil_of(inner_steps=0))
    theirs = prototypical.task_delta(body, theta, episode)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    assert_same(ours.delta, theirs.delta)


def test_the_network_runs_once_however_many_inner_steps_there_are() -> None:
    (body, theta), episode = conv_body(), random_episode()
    runs: list[int] = []
    body.register_forward_hook(lambda *_: runs.append(1))
    anil.task_delta(body, theta, episode, anil_of(inner_steps=7))
    assert len(runs) == 1


def test_a_new_site_gets_the_features_of_theta_and_a_head_of_its_own() -> None:
    (body, theta), episode = conv_body(), random_episode()
    adapt = AdaptSettings(head="zeros", steps=3, lr=0.2)
    classify = build_learner(AnilSettings(adapt=adapt)).adapt(body, theta, episode.support)
    support, query = (body.apply_with(theta, e.images) for e in (episode.support, episode.query))
    one_hot = F.one_hot(episode.support.labels, WAYS).double()
    weight, bias = torch.zeros(WAYS, body.features), torch.zeros(WAYS)
    for _ in range(3):
        error = (support @ weight.T + bias).softmax(1) - one_hot
        weight, bias = weight - 0.2 * error.T @ support / len(support), bias - 0.2 * error.mean(0)
    torch.testing.assert_close(
        classify(episode.query.images), (query @ weight.T + bias).detach(), rtol=1e-9, atol=1e-12
    )


def test_a_new_site_without_steps_takes_class_means() -> None:
    (body, theta), episode = conv_body(), random_episode()
    learners = (AnilSettings(adapt=AdaptSettings(steps=0)), PrototypicalSettings())
    ours, theirs = (
        build_learner(learner).adapt(body, theta, episode.support)(episode.query.images)
        for learner in learners
    )
    torch.testing.assert_close(ours, theirs)


@settings(max_examples=10)
@given(new_number=st.permutations(range(WAYS)), order=st.permutations(range(WAYS * SHOTS)))
def test_neither_the_numbers_of_the_classes_nor_the_order_of_images_change_the_delta(
    new_number: list[int], order: list[int]
) -> None:
    (body, theta), episode = smooth_body(), random_episode(side=4)
    other = Episode(
        rearranged(episode.support, new_number, order),
        rearranged(episode.query, new_number, order),
    )
    given_settings = anil_of(inner_steps=3, inner_lr=0.5)
    one, same = (anil.task_delta(body, theta, e, given_settings) for e in (episode, other))
    assert same.loss == pytest.approx(one.loss, rel=1e-9)
    assert_same(same.delta, one.delta)
