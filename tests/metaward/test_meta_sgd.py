"""Meta-SGD: gradients of theta and of the rates, by hand and by differences; beside MAML."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Episode
from metaward.learner_settings import FomamlSettings, MamlSettings, MetaSgdSettings
from metaward.meta import maml, meta_sgd
from metaward.meta.compose import build_learner, initial_parameters
from metaward.meta.inner_loop import loss_and_gradient
from metaward.meta.learner import tracked
from metaward.meta.meta_gradient import start_of
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.theta import OWN, body_leaves
from toy_episodes import (
    MODEL,
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

W, BODY_RATE, HEAD_RATE = 1.3, 0.4, 0.7

pytestmark = pytest.mark.usefixtures("one_thread", "float64")


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float32(float64: None) -> None:
    torch.set_default_dtype(torch.float32)


def with_rates(body: Body, leaves: Tensors, seed: int | None = None, **given: Any) -> Tensors:
    """Return theta with its rates; with a seed they are all different, and some negative."""
    own = build_learner(MetaSgdSettings(**given)).own_parameters(body, seed=0)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        own = {
            name: 0.3 * torch.randn(leaf.shape, generator=generator) for name, leaf in own.items()
        }
    return leaves | own


def test_the_gradients_of_theta_and_of_the_rates_are_those_worked_by_hand() -> None:
    # Two steps from a head of zeros, which stays (s, -s). With s_0 = 0 and u = 2 s_1 w:
    #   s_1 = a_h w / 2, w_1 = w;  s_2 = s_1 + a_h w sigmoid(-u), w_2 = w + 2 a_b s_1 sigmoid(-u)
    # The query's loss is log(1 + exp(-m)), m = 2 s_2 w_2. Below, ds and dw are the derivatives of
    # s_2 and w_2 by a_b and by a_h, with d sigmoid(-u) = - sigmoid(u) sigmoid(-u) du.
    a_b, a_h, w = BODY_RATE, HEAD_RATE, W
    s_1 = a_h * w / 2
    u = 2 * s_1 * w
    s_2, w_2 = s_1 + a_h * w * sigmoid(-u), w + 2 * a_b * s_1 * sigmoid(-u)
    m, bend = 2 * s_2 * w_2, sigmoid(u) * sigmoid(-u)
    by_body_rate = 2 * s_2 * (2 * s_1 * sigmoid(-u))
    ds = w / 2 + w * sigmoid(-u) - a_h * w * bend * w**2
    dw = 2 * a_b * (w / 2 * sigmoid(-u) - s_1 * bend * w**2)
    by_head_rate = 2 * (ds * w_2 + s_2 * dw)
    theta = {
        "w": torch.tensor(w),
        f"{OWN}rate.body.w": torch.tensor(a_b),
        f"{OWN}rate.head.weight": torch.tensor(a_h),
        f"{OWN}rate.head.bias": torch.tensor(0.2),
    }
    given_settings = MetaSgdSettings(inner_steps=2, head="zeros")
    delta = meta_sgd.task_delta(ScalarBody(), theta, scalar_episode(), given_settings).delta
    assert list(delta) == list(theta)
    found = [float(delta[f"{OWN}rate.{name}"]) for name in ("body.w", "head.weight", "head.bias")]
    expected = [sigmoid(-m) * by_body_rate, sigmoid(-m) * by_head_rate, 0.0]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("rates", ["parameter", "layer"])
@pytest.mark.parametrize("head", ["prototypes", "zeros"])
@pytest.mark.parametrize("steps", [1, 3])
def test_each_leafs_gradient_is_that_of_finite_differences(
    steps: int, head: str, rates: str
) -> None:
    (body, leaves), episode = smooth_body(), random_episode(side=4)
    given_settings = MetaSgdSettings(inner_steps=steps, head=head, rates=rates)
    theta = with_rates(body, leaves, seed=3, rates=rates)

    def meta_loss(at: Tensors) -> float:
        """Take the steps anew; nothing here is differentiated through."""
        phi = start_of(body, tracked(body_leaves(at)), episode.support, given_settings.head)
        phi = phi.detached()
        rate = {name.removeprefix(f"{OWN}rate."): leaf for name, leaf in at.items()}
        names = [f"body.{name}" for name in leaves] + ["head.weight", "head.bias"]
        for _ in range(steps):
            _, slope = loss_and_gradient(body, phi, episode.support)
            trio = zip(phi.leaves(), names, slope.leaves(), strict=True)
            phi = phi.holding([leaf - rate[name] * g for leaf, name, g in trio]).detached()
        return float(loss_and_gradient(body, phi, episode.query)[0].detach())

    result = meta_sgd.task_delta(body, theta, episode, given_settings)
    assert result.loss == pytest.approx(meta_loss(theta), rel=1e-12)
    torch.manual_seed(0)
    for leaf_name in theta:
        direction = {name: torch.zeros_like(leaf) for name, leaf in theta.items()}
        direction[leaf_name] = torch.randn_like(theta[leaf_name])
        slope = slope_along(meta_loss, theta, direction, h=1e-5)
        found = -inner_product(result.delta, direction)
        assert found == pytest.approx(slope, rel=1e-6, abs=1e-9), leaf_name


def test_a_rate_is_not_moved_by_the_gradient_of_the_weight_that_it_belongs_to() -> None:
    """With one step it is - grad L(phi_1; query) * grad L(phi_0; support), number by number."""
    (body, leaves), episode = conv_body(), random_episode()
    given_settings = MetaSgdSettings(inner_lr=0.3)
    theta = with_rates(body, leaves, inner_lr=0.3)
    delta = meta_sgd.task_delta(body, theta, episode, given_settings).delta
    phi = start_of(body, tracked(leaves), episode.support, "prototypes").detached()
    _, on_support = loss_and_gradient(body, phi, episode.support)
    _, on_query = loss_and_gradient(
        body, phi.stepped(on_support, 0.3).detached(), episode.query
    )  # fmt: skip
    for name in leaves:
        expected = on_query.body[name] * on_support.body[name]
        rate = delta[f"{OWN}rate.body.{name}"]
        torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-14)
        assert not torch.allclose(rate, delta[name], rtol=0.1)
    head = (on_query.head.weight * on_support.head.weight).sum()
    torch.testing.assert_close(delta[f"{OWN}rate.head.weight"][0], head)


def test_with_equal_rates_thetas_part_is_maml() -> None:
    (body, leaves), episode = conv_body(), random_episode()
    theta = with_rates(body, leaves, inner_lr=0.3)
    ours = meta_sgd.task_delta(body, theta, episode, MetaSgdSettings(inner_steps=2))
    theirs = maml.task_delta(
        body, leaves, episode,
        MamlSettings(inner_steps=2, inner_lr=0.3, adapt=AdaptSettings()),
    )  # fmt: skip
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    assert_same(body_leaves(ours.delta), theirs.delta)


def test_the_gradient_of_a_layers_rate_is_the_sum_over_its_numbers() -> None:
    (body, leaves), episode = conv_body(), random_episode()
    each, whole = (
        meta_sgd.task_delta(
            body, with_rates(body, leaves, rates=rates), episode, MetaSgdSettings(rates=rates)
        ).delta
        for rates in ("parameter", "layer")
    )
    for name in leaves:
        rate = f"{OWN}rate.body.{name}"
        assert whole[rate].shape == (1,)
        torch.testing.assert_close(whole[rate][0], each[rate].sum())


@pytest.mark.parametrize("rates", ["parameter", "layer"])
def test_rates_start_at_inner_lr_and_follow_from_settings_and_the_bodys_form(rates: str) -> None:
    learner = MetaSgdSettings(inner_lr=0.25, rates=rates)
    own = build_learner(learner).own_parameters(build_body(MODEL, 0), seed=0)
    other = build_learner(learner).own_parameters(build_body(MODEL, 9), seed=9)
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert {float(rate) for leaf in own.values() for rate in leaf.flatten()} == {0.25}
    n_body = sum(leaf.numel() for leaf in build_body(MODEL, 0).parameters())
    n_leaves = len(list(build_body(MODEL, 0).parameters()))
    n_rates = sum(leaf.numel() for leaf in own.values())
    assert n_rates == (n_body if rates == "parameter" else n_leaves) + 2


def test_a_new_site_takes_inner_steps_at_the_learned_rates() -> None:
    (body, leaves), episode = conv_body(), random_episode()
    learner = build_learner(MetaSgdSettings(inner_steps=3))
    equal = with_rates(body, leaves, inner_lr=0.2)
    plain = build_learner(FomamlSettings(adapt=AdaptSettings(steps=3, lr=0.2)))
    logits = learner.adapt(body, equal, episode.support)(episode.query.images)
    expected = plain.adapt(body, leaves, episode.support)(episode.query.images)
    torch.testing.assert_close(logits, expected)
    learned = with_rates(body, leaves, seed=1)
    other = learner.adapt(body, learned, episode.support)(episode.query.images)
    assert not torch.allclose(other, expected, rtol=1e-2)


def test_a_negative_rate_is_taken_as_it_is_and_goes_uphill() -> None:
    (body, leaves), episode = conv_body(), random_episode()
    losses = []
    for rate in (-0.05, 0.0, 0.05):
        own = with_rates(body, leaves)
        theta = {k: torch.full_like(v, rate) if k not in leaves else v for k, v in own.items()}
        classify = build_learner(MetaSgdSettings()).adapt(body, theta, episode.support)
        support = episode.support
        logits = classify(support.images)
        losses.append(float(torch.nn.functional.cross_entropy(logits, support.labels)))
    assert losses[0] > losses[1] > losses[2]


def test_a_new_site_has_other_findings_than_the_sites_that_learned_the_rates() -> None:
    theta = initial_parameters(MODEL, MetaSgdSettings(), seed=1)
    body = build_body(MODEL, 1).double()
    theta = {name: leaf.double() for name, leaf in theta.items()}
    support = random_episode().support
    two = type(support)(support.images[:4], support.labels[:4], 2)
    for given_support in (support, two):
        classify = build_learner(MetaSgdSettings()).adapt(body, theta, given_support)
        assert classify(support.images).shape == (WAYS * SHOTS, given_support.n_way)


@settings(max_examples=10)
@given(new_number=st.permutations(range(WAYS)), order=st.permutations(range(WAYS * SHOTS)))
def test_neither_the_numbers_of_the_classes_nor_the_order_of_images_change_the_delta(
    new_number: list[int], order: list[int]
) -> None:
    (body, leaves), episode = smooth_body(), random_episode(side=4)
    other = Episode(
        rearranged(episode.support, new_number, order),
        rearranged(episode.query, new_number, order),
    )
    theta, given_settings = with_rates(body, leaves, seed=2), MetaSgdSettings(inner_steps=2)
    one, same = (meta_sgd.task_delta(body, theta, e, given_settings) for e in (episode, other))
    assert same.loss == pytest.approx(one.loss, rel=1e-9)
    assert_same(same.delta, one.delta)


@pytest.mark.usefixtures("float32")
def test_a_first_rate_that_theta_cannot_hold_is_refused_as_a_setting() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        MetaSgdSettings(inner_lr=1.0e7)
    theta = initial_parameters(MODEL, MetaSgdSettings(inner_lr=1.0e6), seed=0)
    assert all(bool(leaf.isfinite().all()) for leaf in theta.values())
