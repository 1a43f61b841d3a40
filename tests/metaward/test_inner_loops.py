"""Inner loops side by side give what they give one after the other."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaward.episodes import Episode, Examples
from metaward.learner_settings import FomamlSettings
from metaward.meta import fomaml
from metaward.meta.head import Head
from metaward.meta.inner_loops import fastest_at_once, inner_loops, losses_and_gradients
from metaward.meta.parameters import Parameters
from metaward.models.body import Body, build_body
from metaward.study import ModelSettings

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {
    "stride": ModelSettings(image_size=16, filters=8, groups=2),
    "pool": ModelSettings(image_size=32, filters=4, groups=1, downsample="pool"),
    "colour": ModelSettings(image_size=16, filters=8, groups=2, channels=3),
    "resnet": ModelSettings(name="resnet", image_size=16, filters=4, groups=2),
}


def body_of(name: str) -> Body:
    return build_body(MODELS[name], seed=3).double()


def drawn(body: Body, model: ModelSettings, n_tasks: int, n: int, steps: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    size, channels = model.image_size, model.channels

    def examples() -> Examples:
        images = torch.from_numpy(rng.standard_normal((n, channels, size, size)))
        return Examples(images, torch.from_numpy(rng.integers(0, 3, n)), 3)

    def number(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape))

    heads = [Head(number(3, body.features) / 4, number(3)) for _ in range(n_tasks)]
    return heads, [[examples() for _ in range(steps)] for _ in range(n_tasks)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("steps", [1, 3])
def test_side_by_side_is_the_loop(name: str, steps: int) -> None:
    body = body_of(name)
    theta = body.initial_parameters()
    heads, batches = drawn(body, MODELS[name], 3, 5, steps, seed=7)
    loop = inner_loops(body, theta, heads, batches, lr=0.3, at_once=1)
    side = inner_loops(body, theta, heads, batches, lr=0.3, at_once=9)
    for one, other in zip(loop, side, strict=True):
        assert one.phi.keys() == other.phi.keys() == theta.keys()
        assert one.loss == pytest.approx(other.loss, rel=1e-10)
        for leaf in theta:
            moved = float((one.phi[leaf] - theta[leaf]).detach().abs().max())
            assert moved > 0
            torch.testing.assert_close(one.phi[leaf], other.phi[leaf], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(one.head.weight, other.head.weight, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(one.head.bias, other.head.bias, rtol=1e-9, atol=1e-10)
    assert not torch.equal(loop[0].head.bias, loop[1].head.bias)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 99))
def test_a_task_does_not_feel_who_stands_beside_it(order: list[int], seed: int) -> None:
    body = body_of("stride")
    theta = body.initial_parameters()
    heads, batches = drawn(body, MODELS["stride"], 4, 2, 2, seed)
    first = inner_loops(body, theta, heads, batches, lr=0.2, at_once=9)
    again = inner_loops(
        body, theta, [heads[i] for i in order], [batches[i] for i in order],
        lr=0.2, at_once=9,
    )  # fmt: skip
    for place, task in enumerate(order):
        for leaf in theta:
            torch.testing.assert_close(
                again[place].phi[leaf], first[task].phi[leaf], rtol=1e-10, atol=1e-12
            )


def test_theta_is_left_as_it_was_and_what_comes_out_can_be_differentiated() -> None:
    body = body_of("stride")
    theta = body.initial_parameters()
    before = {name: leaf.clone() for name, leaf in theta.items()}
    heads, batches = drawn(body, MODELS["stride"], 2, 4, 2, seed=1)
    for adapted in inner_loops(body, theta, heads, batches, lr=0.2, at_once=9):
        assert all(leaf.requires_grad and leaf.is_leaf for leaf in adapted.phi.values())
    for name, leaf in theta.items():
        assert torch.equal(leaf, before[name])
        assert not leaf.requires_grad


@pytest.mark.parametrize("at_once", [1, 2])
def test_without_steps_everything_stays_where_it_starts(at_once: int) -> None:
    body = body_of("stride")
    theta = body.initial_parameters()
    heads, batches = drawn(body, MODELS["stride"], 2, 4, 0, seed=1)
    for adapted, head in zip(
        inner_loops(body, theta, heads, batches, lr=0.2, at_once=at_once), heads, strict=True
    ):
        assert np.isnan(adapted.loss)
        assert torch.equal(adapted.head.weight, head.weight)
        assert all(torch.equal(adapted.phi[name], theta[name]) for name in theta)


@pytest.mark.parametrize("at_once", [2, 3, None])
def test_every_task_is_done_once_and_in_its_place_however_many_stand_side_by_side(
    at_once: int | None,
) -> None:
    body = body_of("stride")
    theta = body.initial_parameters()
    heads, batches = drawn(body, MODELS["stride"], 7, 2, 1, seed=4)
    loop = inner_loops(body, theta, heads, batches, lr=0.2, at_once=1)
    found = inner_loops(body, theta, heads, batches, lr=0.2, at_once=at_once)
    for one, other in zip(loop, found, strict=True):
        torch.testing.assert_close(one.head.bias, other.head.bias, rtol=1e-10, atol=1e-12)


def test_no_task_gives_nothing() -> None:
    body = body_of("stride")
    assert inner_loops(body, body.initial_parameters(), [], [], lr=0.1) == []


def test_tasks_of_unlike_sizes_are_taken_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = body_of("stride")
    heads, batches = drawn(body, MODELS["stride"], 2, 4, 1, seed=1)
    short = batches[1][0]
    batches[1] = [Examples(short.images[:3], short.labels[:3], 3)]
    monkeypatch.setattr(body, "apply_each", _never)
    found = inner_loops(body, body.initial_parameters(), heads, batches, lr=1, at_once=9)
    assert len(found) == 2


_never: Callable[..., Any] = lambda *_: pytest.fail("side by side")  # noqa: E731


@pytest.mark.parametrize(
    ("filters", "n", "expected"), [(8, 5, 20), (8, 50, 2), (8, 51, 1), (64, 5, 20), (64, 10, 1)]
)
def test_on_a_cpu_small_steps_stand_side_by_side_a_hundred_images_at_once(
    filters: int, n: int, expected: int
) -> None:
    model = ModelSettings(image_size=16, filters=filters, groups=2)
    body = build_body(model, 0)
    theta = body.initial_parameters()
    examples = Examples(torch.zeros(n, 1, 16, 16), torch.zeros(n, dtype=torch.int64), 3)
    found = fastest_at_once(body, theta, [[examples]] * 4)
    assert found == expected


def test_on_a_cpu_a_body_without_convolutions_in_groups_takes_one_task_at_a_time() -> None:
    body = body_of("resnet")
    _, batches = drawn(body, MODELS["resnet"], 4, 2, 1, seed=1)
    assert fastest_at_once(body, body.initial_parameters(), batches) == 1


def test_on_an_accelerator_all_tasks_stand_side_by_side() -> None:
    body = body_of("stride")
    theta = {name: leaf.to("meta") for name, leaf in body.initial_parameters().items()}
    _, batches = drawn(body, MODELS["stride"], 6, 60, 1, seed=1)
    assert fastest_at_once(body, theta, batches) == 6


@pytest.mark.parametrize("name", MODELS)
def test_gradients_side_by_side_are_those_of_each_task_alone(name: str) -> None:
    body = body_of(name)
    heads, batches = drawn(body, MODELS[name], 3, 4, 1, seed=7)
    bodies = [build_body(MODELS[name], seed).double().initial_parameters() for seed in range(3)]
    at = [Parameters(leaves, head) for leaves, head in zip(bodies, heads, strict=True)]
    examples = [own[0] for own in batches]
    alone = losses_and_gradients(body, at, examples, at_once=1)
    found = losses_and_gradients(body, at, examples, at_once=3)
    for (loss, gradient), (other_loss, other) in zip(alone, found, strict=True):
        torch.testing.assert_close(loss.detach(), other_loss, rtol=1e-10, atol=0)
        assert gradient.body.keys() == other.body.keys()
        assert not any(leaf.requires_grad for leaf in other.leaves())
        for one, two in zip(gradient.leaves(), other.leaves(), strict=True):
            assert float(one.abs().max()) > 0
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


def test_of_no_task_there_is_no_gradient() -> None:
    assert losses_and_gradients(body_of("stride"), [], []) == []


def test_fomaml_gives_the_same_deltas_for_many_episodes_as_for_each() -> None:
    body = body_of("stride")
    theta = body.initial_parameters()
    _, batches = drawn(body, MODELS["stride"], 4, 6, 2, seed=2)
    labels = torch.arange(6) % 3
    episodes = [
        Episode(replace(a, labels=labels), replace(b, labels=labels), np.arange(6))
        for a, b in batches
    ]
    chosen = FomamlSettings(inner_steps=2, inner_lr=0.2)
    together = fomaml.task_deltas(body, theta, episodes, chosen)
    for episode, found in zip(episodes, together, strict=True):
        alone = fomaml.task_delta(body, theta, episode, chosen)
        assert found.loss == pytest.approx(alone.loss, rel=1e-10)
        assert list(found.delta) == list(theta)
        for name, leaf in alone.delta.items():
            torch.testing.assert_close(found.delta[name], leaf, rtol=1e-9, atol=1e-11)
