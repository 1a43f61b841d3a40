"""The prototypical learner, by hand, against autograd and FOMAML; and what must not matter."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.errors import DataError
from metaward.learner_settings import FomamlSettings, PrototypicalSettings
from metaward.meta import fomaml, prototypical
from metaward.meta.compose import build_learner
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.tasks import Task

MODEL = ModelSettings(image_size=16, filters=8, groups=2)
WAYS, SHOTS = 3, 2

pytestmark = pytest.mark.usefixtures("one_thread")


class ScalarBody(Body):
    """feature = w * pixel, for images of one pixel: small enough to work by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.features = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.w * images.flatten(1)


def pixels(values: Sequence[float], labels: Sequence[int]) -> Examples:
    images = torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)
    return Examples(images, torch.tensor(labels), n_way=2)


def float64_body(seed: int = 5) -> tuple[Body, Tensors]:
    body = build_body(MODEL, seed).double()
    return body, body.initial_parameters()


def random_episode(seed: int = 5) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)

    def draw() -> Examples:
        shape = (WAYS * SHOTS, 1, 16, 16)
        images = torch.randn(shape, generator=generator, dtype=torch.float64)
        return Examples(images, labels, WAYS)

    return Episode(draw(), draw())


def relabelled(examples: Examples, new_number: Sequence[int]) -> Examples:
    return Examples(examples.images, torch.tensor(new_number)[examples.labels], examples.n_way)


def reordered(examples: Examples, order: Sequence[int]) -> Examples:
    rows = torch.tensor(order)
    return Examples(examples.images[rows], examples.labels[rows], examples.n_way)


def assert_same(one: Tensors, other: Tensors) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-7, atol=1e-10)


def test_the_delta_is_the_one_worked_by_hand() -> None:
    # Centres at 2w (of 1 and 3) and -w. Query at w, class 0: squared distances w^2 and 4 w^2,
    # so the loss is log(1 + exp(-3 w^2)) and its derivative -6 w sigmoid(-3 w^2).
    w = 0.4
    episode = Episode(pixels([1, 3, -1], [0, 0, 1]), pixels([1], [0]))
    theta = {"w": torch.tensor(w, dtype=torch.float64)}
    result = prototypical.task_delta(ScalarBody(), theta, episode)
    assert result.loss == pytest.approx(math.log1p(math.exp(-3 * w**2)), rel=1e-12)
    assert float(result.delta["w"]) == pytest.approx(6 * w / (1 + math.exp(3 * w**2)), rel=1e-12)


def test_the_delta_is_minus_the_gradient_of_the_papers_formula() -> None:
    (body, theta), episode = float64_body(), random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    support = body.apply_with(leaves, episode.support.images)
    query = body.apply_with(leaves, episode.query.images)
    centres = torch.stack([support[episode.support.labels == c].mean(0) for c in range(WAYS)])
    squared = (query[:, None] - centres[None]).square().sum(2)
    loss = F.cross_entropy(-squared / math.sqrt(body.features), episode.query.labels)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    result = prototypical.task_delta(body, theta, episode)
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    assert_same(result.delta, dict(zip(leaves, [-g for g in gradients], strict=True)))


def test_it_is_fomaml_without_inner_steps() -> None:
    (body, theta), episode = float64_body(), random_episode()
    no_steps = FomamlSettings(inner_steps=0, adapt=AdaptSettings(head="prototypes"))
    expected = fomaml.task_delta(body, theta, episode, no_steps)
    result = prototypical.task_delta(body, theta, episode)
    assert result.loss == pytest.approx(expected.loss, rel=1e-9)
    assert_same(result.delta, expected.delta)


def test_a_new_site_is_classified_by_the_nearest_class_mean() -> None:
    (body, theta), episode = float64_body(), random_episode()
    classify = build_learner(PrototypicalSettings()).adapt(body, theta, episode.support)
    with torch.no_grad():
        support = body.apply_with(theta, episode.support.images)
        query = body.apply_with(theta, episode.query.images)
    centres = torch.stack([support[episode.support.labels == c].mean(0) for c in range(WAYS)])
    nearest = torch.cdist(query, centres).argmin(1)
    assert torch.equal(classify(episode.query.images).argmax(1), nearest)


@settings(max_examples=20, deadline=None)
@given(new_number=st.permutations(range(WAYS)), order=st.permutations(range(WAYS * SHOTS)))
def test_neither_the_numbers_of_the_classes_nor_the_order_of_images_change_the_delta(
    new_number: list[int], order: list[int]
) -> None:
    (body, theta), episode = float64_body(), random_episode()
    other = Episode(
        reordered(relabelled(episode.support, new_number), order),
        reordered(relabelled(episode.query, new_number), order),
    )
    one, same = (prototypical.task_delta(body, theta, e) for e in (episode, other))
    assert same.loss == pytest.approx(one.loss, rel=1e-9)
    assert_same(same.delta, one.delta)


def task(patients_of: Sequence[int]) -> Task:
    """Return a task with one image per patient and ``patients_of[label]`` patients per label."""
    labels = np.repeat(np.arange(len(patients_of)), patients_of)
    images = np.random.default_rng(0).random((len(labels), 1, 16, 16)).astype(np.float32)
    names = tuple("abcdef"[: len(patients_of)])
    return Task("north", images, labels, np.arange(len(labels)), names)


def test_a_site_gives_the_mean_over_its_episodes_and_the_same_bits_again() -> None:
    body = build_body(MODEL, 1)
    theta = body.initial_parameters()
    learner = build_learner(PrototypicalSettings(n_way=2, n_shot=1, n_query=1, episodes=3))
    one, other = (
        learner.local_delta(body, theta, task([4, 4]), np.random.default_rng(2)) for _ in range(2)
    )
    third = learner.local_delta(body, theta, task([4, 4]), np.random.default_rng(3))
    assert one.loss == other.loss != third.loss
    assert all(torch.equal(one.delta[name], other.delta[name]) for name in theta)


def test_a_site_with_too_little_is_told_which_labels_are_too_small() -> None:
    learner = build_learner(PrototypicalSettings(n_way=2, n_shot=2, n_query=2))
    with pytest.raises(DataError, match=r"b: 3 images of 3 patients, c: 1 images of 1") as caught:
        learner.require_fit(task([9, 3, 1]))
    assert caught.value.where == "site north"
    assert "2 support and 2 query images" in caught.value.expected
    learner.require_fit(task([9, 4, 1]))
