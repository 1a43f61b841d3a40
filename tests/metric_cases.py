"""What the tests of the metric learners share: small episodes, and ways to doubt a delta."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import LearnerSettings
from metaward.meta.compose import build_learner
from metaward.meta.learner import LocalResult
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.tasks import Task

MODEL = ModelSettings(image_size=16, filters=8, groups=2)
WAYS, SHOTS = 3, 2

TaskDelta = Callable[[Tensors], LocalResult]


class PixelBody(Body):
    """feature = w * pixel, for images of a few pixels: small enough to work by hand.

    The map is the image itself, times w.
    """

    def __init__(self, channels: int = 1, side: int = 1) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.features = channels * side * side
        self.map_channels, self.map_side = channels, side

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return self.w * images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps(images).flatten(1)


def examples(rows: Sequence[Sequence[float]], labels: Sequence[int], n_way: int) -> Examples:
    """Return images whose channels are the numbers of a row, one pixel each, in float64."""
    images = torch.tensor(rows, dtype=torch.float64)[:, :, None, None]
    return Examples(images, torch.tensor(labels), n_way)


def episode_of(support: Examples, query: Examples) -> Episode:
    return Episode(support, query)


def at(w: float) -> Tensors:
    """Return the theta of a :class:`PixelBody`."""
    return {"w": torch.tensor(w, dtype=torch.float64)}


def float64_theta(
    learner: LearnerSettings, model: ModelSettings = MODEL, seed: int = 5
) -> tuple[Body, Tensors]:
    """Return a body and the theta that a study with this learner starts from, in float64.

    The leaves of norms and biases start at 0 and 1, which hides mistakes: they are moved a little.
    """
    body = build_body(model, seed)
    theta = body.initial_parameters() | build_learner(learner).own_parameters(body, seed)
    generator = torch.Generator().manual_seed(seed)

    def moved(leaf: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        return leaf.double() + 0.1 * noise

    return body.double(), {name: moved(leaf) for name, leaf in theta.items()}


def random_episode(seed: int = 5, shots: int = SHOTS, size: int = 16) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    def draw(per_class: int) -> Examples:
        shape = (WAYS * per_class, 1, size, size)
        images = torch.randn(shape, generator=generator, dtype=torch.float64)
        return Examples(images, torch.arange(WAYS).repeat_interleave(per_class), WAYS)

    return episode_of(draw(shots), draw(SHOTS))


def relabelled(given: Examples, new_number: Sequence[int]) -> Examples:
    return Examples(given.images, torch.tensor(new_number)[given.labels], given.n_way)


def reordered(given: Examples, order: Sequence[int]) -> Examples:
    rows = torch.tensor(order)
    return Examples(given.images[rows], given.labels[rows], given.n_way)


def assert_same(one: Tensors, other: Tensors) -> None:
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-7, atol=1e-10)


def assert_minus_gradient(result: LocalResult, theta: Tensors, loss: torch.Tensor) -> None:
    """Check a result against a loss that was computed in another way, from leaves of ``theta``."""
    gradients = torch.autograd.grad(loss, list(theta.values()))
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    assert_same(result.delta, dict(zip(theta, [-g for g in gradients], strict=True)))


def assert_finite_differences_agree(delta_at: TaskDelta, theta: Tensors) -> None:
    """Check the slope along a random direction, all leaves together."""
    generator = torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        for name, leaf in theta.items()
    }
    h = 1e-7  # small: a ReLU that flips within the step would show

    def loss(step: float) -> float:
        return delta_at({name: leaf + step * direction[name] for name, leaf in theta.items()}).loss

    delta = delta_at(theta).delta
    along = sum(float((delta[name] * direction[name]).sum()) for name in theta)
    assert -along == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-5)


def bars(seed: int = 2, patients_per_label: int = 12) -> Task:
    """Return a task of three labels, told by where a faint bar lies."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), patients_per_label)
    images = (rng.normal(size=(len(labels), 1, 16, 16)) * 0.1 + 0.5).astype(np.float32)
    for index, label in enumerate(labels):
        images[index, 0, 4 * label : 4 * label + 4] += 0.15
    return Task("north", images, labels, np.arange(len(labels)), ("a", "b", "c"))
