"""Generated features: by hand, against both players' formulas, and what must not matter."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from metaward import wire, wire_arrays
from metaward.arrays import Tensors, to_arrays, to_tensors
from metaward.episodes import Episode, Examples, sample_episode
from metaward.errors import ConfigError
from metaward.learner_settings import HallucinationSettings, PrototypicalSettings
from metaward.meta import hallucination, prototypical
from metaward.meta.compose import build_learner, build_noised_learner, initial_parameters
from metaward.model_artefact import ModelCard, load_model, save_model
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.privacy_statement import PrivacyStatement
from metaward.study import Study
from metaward.tasks import Task
from metaward.theta import OWN

MODEL = ModelSettings(image_size=16, filters=8, groups=2)
WAYS, SHOTS, DRAWS = 3, 2, 4
SMALL = HallucinationSettings(
    n_way=WAYS, n_shot=SHOTS, n_query=2, episodes=2, augment="none",
    n_generated=DRAWS, latent_size=3, hidden=5, adversarial_weight=0.7,
)  # fmt: skip
GENERATOR, DISCRIMINATOR = OWN + "generator.", OWN + "discriminator."

pytestmark = pytest.mark.usefixtures("one_thread")


class PixelBody(Body):
    """features = a scale times the pixels, for images of two."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((1,), 1.5, dtype=torch.float64))
        self.features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.flatten(1)


BODY = PixelBody()


def theta_of(s: HallucinationSettings = SMALL, seed: int = 3) -> Tensors:
    """Return theta in float64, moved from where the generator only copies."""
    own = build_learner(s).own_parameters(BODY, seed)
    generator = torch.Generator().manual_seed(seed)
    return BODY.initial_parameters() | {
        name: leaf.double() + 0.5 * torch.randn(leaf.shape, generator=generator).double()
        for name, leaf in own.items()
    }


def random_episode(seed: int = 1) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)

    def draw() -> Examples:
        images = torch.rand(len(labels), 2, 1, 1, generator=generator, dtype=torch.float64)
        return Examples(images, labels, WAYS)

    return Episode(draw(), draw())


def random_noise(seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(DRAWS, SMALL.latent_size, generator=generator).double()


def task(n_labels: int = 4, per_label: int = 8, seed: int = 0) -> Task:
    """Return a task whose labels are where a faint bar stands; one image per patient."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_labels), per_label)
    images = (rng.normal(size=(len(labels), 1, 16, 16)) * 0.25 + 0.3).astype(np.float32)
    for index, label in enumerate(labels):
        images[index, 0, 4 * label : 4 * label + 4] += 0.2
    return Task("north", images, labels, np.arange(len(labels)), tuple("abcd"[:n_labels]))


# --- nothing generated ----------------------------------------------------------------------------


def test_with_nothing_generated_it_is_a_prototypical_network_bit_for_bit() -> None:
    common = {"n_way": 3, "n_shot": 2, "n_query": 2}
    nothing = build_learner(HallucinationSettings(n_generated=0, adversarial_weight=0.7, **common))
    plain = build_learner(PrototypicalSettings(**common))
    body = build_body(MODEL, 1)
    theta = body.initial_parameters()
    assert nothing.own_parameters(body, 1) == {}
    ours, theirs = (
        learner.local_delta(body, theta, task(), np.random.default_rng(0))
        for learner in (nothing, plain)
    )
    assert ours.loss == theirs.loss
    assert list(ours.delta) == list(theta)
    episode = sample_episode(task(), **common, rng=np.random.default_rng(0))
    logits = [
        learner.adapt(body, theta, episode.support)(episode.query.images)
        for learner in (nothing, plain)
    ]
    assert torch.equal(*logits)
    for name in theta:
        assert torch.equal(ours.delta[name], theirs.delta[name])


def test_without_weight_there_is_no_discriminator() -> None:
    alone = SMALL.model_copy(update={"adversarial_weight": 0.0})
    own = build_learner(alone).own_parameters(BODY, 0)
    assert own
    assert all(name.startswith(GENERATOR) for name in own)
    assert any(n.startswith(DISCRIMINATOR) for n in build_learner(SMALL).own_parameters(BODY, 0))


def test_at_the_start_the_generator_copies() -> None:
    """So that a study begins as a prototypical network, up to rounding."""
    episode = random_episode()
    own = {
        name: leaf.double() for name, leaf in build_learner(SMALL).own_parameters(BODY, 3).items()
    }
    theta = BODY.initial_parameters() | own
    result = hallucination.task_delta(BODY, theta, episode, random_noise(), SMALL)
    plain = prototypical.task_delta(BODY, BODY.initial_parameters(), episode)
    assert result.loss == pytest.approx(plain.loss, rel=1e-12)


# --- by hand and against the formulas -------------------------------------------------------------


def test_prototypes_of_real_and_generated_features_are_those_worked_by_hand() -> None:
    # Class 0 has 1 and 3, class 1 has 5. Two noises; of 1 they make 2 and 4, of 3 8 and 6, of 5 7
    # and 9. On average over the image that each starts from: (2 + 8)/2 = 5 and (4 + 6)/2 = 5.
    # Prototypes (1 + 3 + 5 + 5)/4 = 3.5 and (5 + 7 + 9)/3 = 7; a head has 2 c and - c^2.
    real = torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.float64)
    made = torch.tensor([[[2.0], [4.0]], [[8.0], [6.0]], [[7.0], [9.0]]], dtype=torch.float64)
    support = Examples(torch.zeros(3, 1, 1, 1), torch.tensor([0, 0, 1]), 2)
    head = hallucination.hallucinated_head(real, made, support)
    assert head.weight.flatten().tolist() == pytest.approx([7.0, 14.0], rel=1e-12)
    assert head.bias.tolist() == pytest.approx([-(3.5**2), -49.0], rel=1e-12)


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


# --- what must not matter -------------------------------------------------------------------------


@settings(max_examples=15)
@given(new_number=st.permutations(range(WAYS)), order=st.permutations(range(WAYS * SHOTS)))
def test_neither_the_numbers_of_the_classes_nor_the_order_of_images_change_the_delta(
    new_number: list[int], order: list[int]
) -> None:
    theta, episode, noise = theta_of(), random_episode(), random_noise()

    def other(side: Examples) -> Examples:
        labels = torch.tensor(new_number)[side.labels]
        return Examples(side.images[torch.tensor(order)], labels[torch.tensor(order)], WAYS)

    changed = Episode(other(episode.support), other(episode.query))
    one, same = (hallucination.task_delta(BODY, theta, e, noise, SMALL) for e in (episode, changed))
    assert same.loss == pytest.approx(one.loss, rel=1e-9)
    for name in theta:
        torch.testing.assert_close(same.delta[name], one.delta[name], rtol=1e-7, atol=1e-10)
    adapt = build_learner(SMALL).adapt
    images = episode.query.images
    logits = adapt(BODY, theta, episode.support)(images)
    renumbered = adapt(BODY, theta, changed.support)(images)
    torch.testing.assert_close(renumbered[:, new_number], logits, rtol=1e-7, atol=1e-9)


def test_the_same_support_gives_the_same_classifier_and_no_answer_depends_on_another() -> None:
    theta, episode = theta_of(), random_episode()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, again = (build_learner(SMALL).adapt(BODY, theta, episode.support) for _ in "ab")
    images = episode.query.images
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(images), again(images))
    assert not one(images).requires_grad
    alone = torch.cat([one(image[None]) for image in images])
    torch.testing.assert_close(alone, one(images), rtol=1e-9, atol=1e-12)
    plain = build_learner(PrototypicalSettings()).adapt(BODY, theta, episode.support)
    assert not torch.allclose(one(images), plain(images))


def test_the_episodes_are_the_same_whatever_is_generated() -> None:
    body, seen = build_body(MODEL, 1), []
    for n_generated in (0, 3):
        s = SMALL.model_copy(update={"n_generated": n_generated})
        theta = initial_parameters(MODEL, s, 1)  # the generator copies
        seen.append(
            build_learner(s).local_delta(body, theta, task(), np.random.default_rng(4)).loss
        )
    assert seen[1] == pytest.approx(seen[0], rel=1e-5)


# --- the learner ----------------------------------------------------------------------------------


def test_it_learns_and_the_same_generator_gives_the_same_bits() -> None:
    body, learner = build_body(MODEL, 1), build_learner(SMALL)
    start = initial_parameters(MODEL, SMALL, 1)

    def trained() -> Tensors:
        theta = {name: leaf.clone() for name, leaf in start.items()}
        optimiser = torch.optim.Adam(theta.values(), lr=5e-3)
        site, rng = task(), np.random.default_rng(0)
        for _ in range(25):
            delta = learner.local_delta(body, theta, site, rng).delta
            for name, leaf in theta.items():
                leaf.grad = -delta[name]
            optimiser.step()
        return theta

    theta, again = trained(), trained()
    assert all(torch.equal(theta[name], again[name]) for name in theta)
    before, after = (accuracy(body, point) for point in (start, theta))
    assert after > before + 0.1
    assert not torch.equal(theta[GENERATOR + "second.weight"], start[GENERATOR + "second.weight"])


def accuracy(body: Body, theta: Tensors) -> float:
    rng, right = np.random.default_rng(3), []
    for _ in range(30):
        episode = sample_episode(task(seed=8), n_way=4, n_shot=1, n_query=3, rng=rng)
        logits = build_learner(SMALL).adapt(body, theta, episode.support)(episode.query.images)
        right.append((logits.argmax(1) == episode.query.labels).double().mean())
    return float(torch.stack(right).mean())


def test_its_leaves_cross_the_wire_and_adapt_from_a_stored_model(tmp_path: Path) -> None:
    theta = to_arrays(initial_parameters(MODEL, SMALL, 4))
    study = Study(model=MODEL, learner=SMALL, seed=4)
    order = wire.encode_order(wire.RoundOrder(study, 0, theta))
    arrived = wire.decode_order(order, lambda _: wire_arrays.spec_of(theta)).theta
    save_model(tmp_path / "m", ModelCard.of_study(study, PrivacyStatement()), theta)
    loaded = load_model(tmp_path / "m")
    assert loaded.card.learner == SMALL
    site, body = task(), build_body(MODEL, 0)
    episode = sample_episode(site, n_way=3, n_shot=2, n_query=2, rng=np.random.default_rng(1))
    adapt = build_learner(SMALL).adapt
    expected = adapt(body, to_tensors(theta), episode.support)(episode.query.images)
    for found in (arrived, loaded.theta):
        classify = adapt(body, to_tensors(found), episode.support)
        assert torch.equal(classify(episode.query.images), expected)


def test_it_has_no_noised_form_and_says_what_to_take_in_its_place() -> None:
    with pytest.raises(ConfigError, match=r"learner hallucination with.*mechanism block"):
        build_noised_learner(SMALL, 2)
