"""MAML by hand, against finite differences and torch.func; beside FOMAML; and what it holds."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad
from torch.nn import functional as F

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Episode
from metaward.learner_settings import FomamlSettings, MamlSettings
from metaward.meta import fomaml, maml
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
HEADS: tuple[Literal["prototypes", "zeros"], ...] = ("prototypes", "zeros")
FEW_STEPS = [("prototypes", 0), ("prototypes", 1), ("prototypes", 3), ("zeros", 1), ("zeros", 3)]

pytestmark = pytest.mark.usefixtures("one_thread", "float64")


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def maml_of(**given: Any) -> MamlSettings:  # Any: keys of the settings
    head = given.pop("head", "prototypes")
    return MamlSettings(adapt=AdaptSettings(head=head), **given)


def plain_meta_loss(
    body: Body, episode: Episode, *, head: str, steps: int, lr: float
) -> Callable[[Tensors], torch.Tensor]:
    """Return theta -> L(phi_K; query), written anew, with torch.func in place of autograd.grad."""
    support, query = episode.support, episode.query
    one_hot = F.one_hot(support.labels, WAYS).double()

    def features(phi: Tensors, images: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = functional_call(body, phi, (images,))
        return made

    def support_loss(both: tuple[Tensors, Tensors]) -> torch.Tensor:
        phi, top = both
        logits = features(phi, support.images) @ top["weight"].T + top["bias"]
        return F.cross_entropy(logits, support.labels)

    def meta_loss(theta: Tensors) -> torch.Tensor:
        centres = one_hot.T @ features(theta, support.images) / SHOTS
        root = math.sqrt(body.features)
        top = {"weight": 2 * centres / root, "bias": -centres.square().sum(1) / root}
        if head == "zeros":
            top = {name: torch.zeros_like(leaf) for name, leaf in top.items()}
        phi = theta
        for _ in range(steps):
            body_slope, top_slope = grad(support_loss)((phi, top))
            phi = {name: leaf - lr * body_slope[name] for name, leaf in phi.items()}
            top = {name: leaf - lr * top_slope[name] for name, leaf in top.items()}
        logits = features(phi, query.images) @ top["weight"].T + top["bias"]
        return F.cross_entropy(logits, query.labels)

    return meta_loss


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_meta_gradient_is_the_one_worked_by_hand(checkpoint: bool) -> None:
    # Zero head: the step moves it to (+-a w / 2) and leaves w. Query at 1, class 0: the loss is
    # log(1 + exp(-a w^2)). The head's step depends on w too, so d/dw is -2 a w sigmoid(-a w^2);
    # FOMAML holds the head fixed and finds half of that.
    settings = maml_of(inner_lr=A, head="zeros", checkpoint=checkpoint)
    theta = {"w": torch.tensor(W)}
    result = maml.task_delta(ScalarBody(), theta, scalar_episode(), settings)
    expected = 2 * A * W * sigmoid(-A * W**2)
    assert float(result.delta["w"]) == pytest.approx(expected, rel=1e-12)
    assert result.loss == pytest.approx(math.log1p(math.exp(-A * W**2)), rel=1e-12)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(("head", "steps"), FEW_STEPS)
def test_the_meta_gradient_is_that_of_finite_differences(
    steps: int, head: str, checkpoint: bool
) -> None:
    (body, theta), episode = smooth_body(), random_episode(side=4)
    settings = maml_of(inner_steps=steps, inner_lr=0.3, head=head, checkpoint=checkpoint)
    meta_loss = plain_meta_loss(body, episode, head=head, steps=steps, lr=0.3)
    delta = maml.task_delta(body, theta, episode, settings).delta
    torch.manual_seed(0)
    direction = {name: torch.randn_like(leaf) for name, leaf in theta.items()}
    slope = slope_along(lambda at: float(meta_loss(at)), theta, direction, h=1e-5)
    assert -inner_product(delta, direction) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("head", HEADS)
def test_the_meta_gradient_of_a_conv4_is_that_of_torch_func(head: str) -> None:
    (body, theta), episode = conv_body(), random_episode()
    meta_loss = plain_meta_loss(body, episode, head=head, steps=3, lr=0.3)
    result = maml.task_delta(body, theta, episode, maml_of(inner_steps=3, inner_lr=0.3, head=head))
    assert result.loss == pytest.approx(float(meta_loss(theta)), rel=1e-12)
    expected = {name: -slope for name, slope in grad(meta_loss)(theta).items()}
    assert_same(result.delta, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("head", "steps"), FEW_STEPS)
def test_step_by_step_gives_what_the_graph_of_all_steps_gives(steps: int, head: str) -> None:
    (body, theta), episode = conv_body(), random_episode()
    graph, steps_back = (
        maml.task_delta(
            body, theta, episode,
            maml_of(inner_steps=steps, inner_lr=0.3, head=head, checkpoint=checkpoint),
        )
        for checkpoint in (False, True)
    )  # fmt: skip
    assert graph.loss == pytest.approx(steps_back.loss, rel=1e-12)
    scale = max(float(leaf.abs().max()) for leaf in graph.delta.values())
    assert_same(steps_back.delta, graph.delta, rtol=0, atol=1e-12 * scale)


class Held:
    """A tensor that autograd saved for its backward pass; counted while it is there."""

    now = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()  # with its history an output would hold itself for ever
        Held.now += tensor.nbytes
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.nbytes


def most_bytes_held(steps: int, *, checkpoint: bool) -> int:
    (body, theta), episode = conv_body(), random_episode()
    Held.now = Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        maml.task_delta(body, theta, episode, maml_of(inner_steps=steps, checkpoint=checkpoint))
    assert Held.now == 0
    return Held.most


def test_step_by_step_holds_no_more_for_more_steps() -> None:
    assert most_bytes_held(6, checkpoint=True) == most_bytes_held(2, checkpoint=True)
    assert most_bytes_held(6, checkpoint=False) > 2 * most_bytes_held(2, checkpoint=False)


def test_without_inner_steps_it_is_fomaml() -> None:
    (body, theta), episode = conv_body(), random_episode()
    ours = maml.task_delta(body, theta, episode, maml_of(inner_steps=0))
    first_order = FomamlSettings(inner_steps=0, adapt=AdaptSettings(head="prototypes"))
    theirs = fomaml.task_delta(body, theta, episode, first_order)
    assert ours.loss == theirs.loss
    assert_same(ours.delta, theirs.delta)


def test_it_leaves_fomaml_in_proportion_to_the_inner_rate() -> None:
    """The Hessian comes with a factor of inner_lr: a tenth of the rate, a tenth of the distance."""
    (body, theta), episode = smooth_body(), random_episode(side=4)

    def distance(lr: float) -> float:
        ours = maml.task_delta(body, theta, episode, maml_of(inner_steps=2, inner_lr=lr))
        theirs = fomaml.task_delta(
            body, theta, episode,
            FomamlSettings(inner_steps=2, inner_lr=lr, adapt=AdaptSettings()),
        )  # fmt: skip
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
        gap = {name: ours.delta[name] - theirs.delta[name] for name in theta}
        return math.sqrt(inner_product(gap, gap))

    assert distance(1e-3) > 1e-5
    assert distance(1e-3) == pytest.approx(10 * distance(1e-4), rel=0.02)


@settings(max_examples=10)
@given(new_number=st.permutations(range(WAYS)), order=st.permutations(range(WAYS * SHOTS)))
@pytest.mark.parametrize("checkpoint", [False, True])
def test_neither_the_numbers_of_the_classes_nor_the_order_of_images_change_the_delta(
    checkpoint: bool, new_number: list[int], order: list[int]
) -> None:
    (body, theta), episode = smooth_body(), random_episode(side=4)
    other = Episode(
        rearranged(episode.support, new_number, order),
        rearranged(episode.query, new_number, order),
    )
    given_settings = maml_of(inner_steps=2, inner_lr=0.3, checkpoint=checkpoint)
    one, same = (maml.task_delta(body, theta, e, given_settings) for e in (episode, other))
    assert same.loss == pytest.approx(one.loss, rel=1e-9)
    assert_same(same.delta, one.delta)
