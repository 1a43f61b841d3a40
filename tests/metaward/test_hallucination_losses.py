"""Both players of hallucination: each has the delta of its own loss, and goes downhill by it."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hallucination_cases import (
    BODY,
    DISCRIMINATOR,
    DRAWS,
    MODEL,
    SHOTS,
    SMALL,
    WAYS,
    random_episode,
    random_noise,
    task,
    theta_of,
)
from metaward.arrays import Tensors
from metaward.episodes import Episode, sample_episode
from metaward.meta import hallucination
from metaward.meta.compose import initial_parameters
from metaward.models.build import build_body
from metaward.theta import OWN

pytestmark = pytest.mark.usefixtures("one_thread")


def by_the_formulas(
    theta: Tensors, episode: Episode, noise: torch.Tensor, weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The equations at the head of the learner's file, one image and one noise at a time."""

    def affine(name: str, x: torch.Tensor) -> torch.Tensor:
        return theta[OWN + name + ".weight"] @ x + theta[OWN + name + ".bias"]

    def generate(z: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return (
            z + affine("generator.second", affine("generator.first", torch.cat([z, e])).relu())
        ).relu()

    def says(z: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        hidden = affine("discriminator.first", torch.cat([z, s])).relu()
        return affine("discriminator.second", hidden)[0].sigmoid()

    real = [theta["scale"] * image.flatten() for image in episode.support.images]
    asked = [theta["scale"] * image.flatten() for image in episode.query.images]
    labels = episode.support.labels.tolist()
    of_class = [[z for z, y in zip(real, labels, strict=True) if y == k] for k in range(WAYS)]
    s = [torch.stack(members).mean(0) for members in of_class]
    c = [
        (sum(members) + sum(sum(generate(z, e) for z in members) / SHOTS for e in noise))
        / (SHOTS + DRAWS)
        for members in of_class
    ]  # fmt: skip
    logits = torch.stack(
        [torch.stack([-(z - centre).square().sum() / math.sqrt(2) for centre in c]) for z in asked]
    )
    made = [(generate(z, e), s[y]) for z, y in zip(real, labels, strict=True) for e in noise]
    fooled = torch.stack([-says(z, centre).log() for z, centre in made]).mean()
    first = F.cross_entropy(logits, episode.query.labels) + weight * fooled
    of_real = [says(z, s[y]) for z, y in zip(asked, episode.query.labels.tolist(), strict=True)]
    second = torch.stack([-p.log() for p in of_real]).mean()
    second = second + torch.stack([-(1 - says(z, centre)).log() for z, centre in made]).mean()
    return first, second


def test_a_delta_holds_minus_the_gradient_of_each_players_own_loss() -> None:
    theta, episode, noise = theta_of(), random_episode(), random_noise()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    first, second = by_the_formulas(leaves, episode, noise, SMALL.adversarial_weight)
    of_first, of_second = (
        dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True,
                                             materialize_grads=True), strict=True))
        for loss in (first, second)
    )  # fmt: skip
    result = hallucination.task_delta(BODY, theta, episode, noise, SMALL)
    assert list(result.delta) == list(theta)
    for name in theta:
        expected = of_second[name] if name.startswith(DISCRIMINATOR) else of_first[name]
        assert expected.abs().sum() > 0
        torch.testing.assert_close(result.delta[name], -expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("player", ["first", "second"])
def test_a_players_delta_matches_finite_differences_of_its_loss(player: str) -> None:
    theta, episode, noise = theta_of(), random_episode(), random_noise()
    delta = hallucination.task_delta(BODY, theta, episode, noise, SMALL).delta
    mine = [n for n in theta if n.startswith(DISCRIMINATOR) == (player == "second")]
    generator = torch.Generator().manual_seed(5)
    way = {n: torch.randn(theta[n].shape, generator=generator).double() for n in mine}

    def loss(step: float) -> float:
        moved = theta | {n: theta[n] + step * way[n] for n in mine}
        losses = hallucination.players_losses(BODY, moved, episode, noise, SMALL)
        return float(getattr(losses, player))

    along = sum(float((delta[n] * way[n]).sum()) for n in mine)
    assert -along == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6)


def test_each_player_goes_downhill_while_the_other_stands_still() -> None:
    body, theta = build_body(MODEL, 1), initial_parameters(MODEL, SMALL, 1)
    before = {name: leaf.clone() for name, leaf in theta.items()}
    episode = sample_episode(task(), n_way=3, n_shot=2, n_query=2, rng=np.random.default_rng(1))
    noise = torch.randn(DRAWS, 3, generator=torch.Generator().manual_seed(0))
    delta = hallucination.task_delta(body, theta, episode, noise, SMALL).delta
    start = hallucination.players_losses(body, theta, episode, noise, SMALL)
    for player in ("first", "second"):
        mine = [n for n in theta if n.startswith(DISCRIMINATOR) == (player == "second")]
        norm = math.sqrt(sum(float(delta[n].square().sum()) for n in mine))
        moved = theta | {n: theta[n] + 0.01 / norm * delta[n] for n in mine}
        after = hallucination.players_losses(body, moved, episode, noise, SMALL)
        assert float(getattr(after, player)) < float(getattr(start, player))
    for name, leaf in theta.items():
        assert torch.equal(leaf, before[name])
        assert not leaf.requires_grad
