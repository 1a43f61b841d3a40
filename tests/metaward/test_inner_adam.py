"""Reptile with Adam in its inner loop: torch's steps, and how long the second moments live."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Examples, sample_support
from metaward.errors import ConfigError
from metaward.learner_settings import ReptileSettings
from metaward.meta import reptile
from metaward.meta.adam_steps import AdamSteps, SecondMoments
from metaward.meta.compose import build_learner, build_noised_learner
from metaward.meta.head import Head, prototype_head
from metaward.meta.inner_loop import episode_loss
from metaward.meta.minibatches import minibatches
from metaward.models.body import Body
from metaward.models.build import build_body
from toy_episodes import MODEL, assert_same, conv_body, random_episode, striped_task

ADAM = ReptileSettings(inner_optimizer="adam", inner_lr=0.01, inner_batch=4, augment="none")

pytestmark = pytest.mark.usefixtures("one_thread", "float64")


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def torch_adam_phi(
    body: Body,
    theta: Tensors,
    episodes: list[tuple[Examples, list[Examples]]],
    lr: float,
) -> list[tuple[Tensors, Head]]:
    """Return body and head after each episode; torch.optim.Adam keeps the body's state, if any."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    of_body = torch.optim.Adam(leaves.values(), lr=lr, betas=(0.0, 0.999), eps=1e-8)
    found = []
    for support, batches in episodes:
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.copy_(theta[name])
            features = body.apply_with(theta, support.images)
            head = prototype_head(features, support.labels, support.n_way).detached()
        head_leaves = [head.weight, head.bias]
        of_head = torch.optim.Adam(head_leaves, lr=lr, betas=(0.0, 0.999), eps=1e-8)
        for batch in batches:
            of_body.zero_grad()
            of_head.zero_grad()
            episode_loss(body, leaves, head, batch).backward()  # type: ignore[no-untyped-call]
            of_body.step()
            of_head.step()
        found.append(({name: leaf.detach().clone() for name, leaf in leaves.items()}, head))
    return found


def batches_of(support: Examples, seed: int, steps: int) -> list[Examples]:
    return list(minibatches(support, ADAM.inner_batch, steps, np.random.default_rng(seed)))


@pytest.mark.parametrize("steps", [1, 5])
def test_one_episode_is_that_of_torchs_adam_without_beta1(steps: int) -> None:
    (body, theta), support = conv_body(), random_episode().support
    ((phi, _),) = torch_adam_phi(body, theta, [(support, batches_of(support, 0, steps))], 0.01)
    settings = ADAM.model_copy(update={"inner_steps": steps})
    result = reptile.task_delta(
        body, theta, support, settings, np.random.default_rng(0), AdamSteps()
    )
    expected = {name: phi[name] - theta[name] for name in theta}
    assert_same(result.delta, expected, rtol=1e-9, atol=1e-13)


def test_the_first_step_from_fresh_moments_is_as_long_as_the_rate_for_every_number() -> None:
    gradient = {"w": torch.tensor([1e-3, -5.0, 0.0])}
    rescaled = SecondMoments().rescaled(gradient)["w"]
    torch.testing.assert_close(rescaled, torch.tensor([1.0, -1.0, 0.0]), rtol=1e-4, atol=0)


def test_the_second_step_is_the_one_worked_by_hand() -> None:
    # v = 0.999 * 0.001 * 3^2 + 0.001 * 4^2 = 0.024991; over 1 - 0.999^2 = 0.001999 that is 12.5018.
    moments = SecondMoments()
    moments.rescaled({"w": torch.tensor([3.0])})
    second = moments.rescaled({"w": torch.tensor([4.0])})["w"]
    assert float(second) == pytest.approx(4 / (0.024991 / 0.001999) ** 0.5, rel=1e-8)


def test_the_bodys_moments_last_for_the_episodes_of_a_round_and_the_heads_for_one() -> None:
    (body, theta), adam = conv_body(), AdamSteps()
    supports = [random_episode(seed).support for seed in (5, 6, 7)]
    pairs = [(support, batches_of(support, seed, 5)) for seed, support in enumerate(supports)]
    expected = torch_adam_phi(body, theta, pairs, lr=0.01)
    for seed, (support, (phi, _)) in enumerate(zip(supports, expected, strict=True)):
        rng = np.random.default_rng(seed)
        result = reptile.task_delta(body, theta, support, ADAM, rng, adam.for_a_new_head())
        assert_same(result.delta, {k: phi[k] - theta[k] for k in theta}, rtol=1e-7, atol=1e-11)
    assert adam.body.steps == 15
    assert adam.head.steps == 0


def test_a_round_keeps_its_moments_and_the_next_one_starts_anew() -> None:
    torch.set_default_dtype(torch.float32)
    body, task = build_body(MODEL, 1), striped_task()
    theta = body.initial_parameters()
    settings = ADAM.model_copy(update={"n_way": 3, "n_shot": 4, "episodes": 2})
    learner = build_learner(settings)
    one, again = (
        learner.local_delta(body, theta, task, np.random.default_rng(2)).delta for _ in range(2)
    )
    assert all(torch.equal(one[name], again[name]) for name in theta)

    rng, adam, deltas = np.random.default_rng(2), AdamSteps(), []
    for moments in (adam, adam.for_a_new_head()):
        support = sample_support(task, n_way=3, n_shot=4, rng=rng)
        deltas.append(reptile.task_delta(body, theta, support, settings, rng, moments).delta)
    kept = {name: (deltas[0][name] + deltas[1][name]) / 2 for name in theta}
    assert_same(one, kept, rtol=1e-6, atol=1e-8)


def test_a_new_site_takes_adams_steps_from_fresh_moments() -> None:
    (body, theta), episode = conv_body(), random_episode()
    adapt = AdaptSettings(steps=4, lr=0.02)
    settings = ReptileSettings(inner_optimizer="adam", adapt=adapt)
    ((phi, head),) = torch_adam_phi(body, theta, [(episode.support, [episode.support] * 4)], 0.02)
    expected = head(body.apply_with(phi, episode.query.images)).detach()
    learner = build_learner(settings)
    for _ in range(2):  # nothing is kept from one call to the next
        logits = learner.adapt(body, theta, episode.support)(episode.query.images)
        torch.testing.assert_close(logits, expected, rtol=1e-7, atol=1e-9)


def test_rates_that_are_left_out_suit_the_optimiser() -> None:
    sgd, adam = ReptileSettings(), ReptileSettings(inner_optimizer="adam")
    assert (sgd.inner_lr, sgd.adapt.lr) == (0.1, 0.01)
    assert (adam.inner_lr, adam.adapt.lr) == (0.001, 0.001)
    chosen = {"inner_optimizer": "adam", "inner_lr": 0.5, "adapt": {"steps": 50}}
    mixed = ReptileSettings.model_validate(chosen)
    assert (mixed.inner_lr, mixed.adapt.steps, mixed.adapt.lr) == (0.5, 50, 0.001)
    assert ReptileSettings.model_validate(mixed.model_dump()) == mixed
    with pytest.raises(ValidationError, match="inner_optimizer"):
        ReptileSettings.model_validate({"inner_optimizer": "adamw"})


def test_only_with_sgd_does_it_work_from_noised_sums() -> None:
    build_noised_learner(ReptileSettings(), 2)
    with pytest.raises(ConfigError, match=r"reptile with mechanism dp-sgd.*inner_optimizer sgd"):
        build_noised_learner(ADAM, 2)
