"""What the tests of the learners share: bodies and episodes that are small enough to check."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import LearnerSettings
from metaward.meta.compose import initial_parameters
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.tasks import Task

MODEL = ModelSettings(image_size=16, filters=8, groups=2)
WAYS, SHOTS = 3, 2


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


def scalar_episode() -> Episode:
    """Return a support of 1 (class 0) and -1 (class 1), and a query of 1."""
    return Episode(pixels([1.0, -1.0], [0, 1]), pixels([1.0], [0]))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


class SmoothBody(Body):
    """Two layers with tanh in between: no kink that a finite difference could step over."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(16, 5)
        self.second = torch.nn.Linear(5, 4)
        self.features = 4

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.second(torch.tanh(self.first(images.flatten(1))))
        return hidden


def smooth_body(seed: int = 1) -> tuple[Body, Tensors]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = SmoothBody().double()
    return body, body.initial_parameters()


def conv_body(seed: int = 5) -> tuple[Body, Tensors]:
    body = build_body(MODEL, seed).double()
    return body, body.initial_parameters()


def float64_theta(learner: LearnerSettings, seed: int = 5) -> Tensors:
    """Return a learner's meta-parameters for :func:`conv_body`, its own leaves too."""
    theta = initial_parameters(MODEL, learner, seed)
    return {name: leaf.double() for name, leaf in theta.items()}


def random_episode(seed: int = 5, side: int = 16) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)

    def draw() -> Examples:
        shape = (WAYS * SHOTS, 1, side, side)
        images = torch.randn(shape, generator=generator, dtype=torch.float64)
        return Examples(images, labels, WAYS)

    return Episode(draw(), draw())


def rearranged(examples: Examples, new_number: Sequence[int], order: Sequence[int]) -> Examples:
    """Return the same examples with the classes numbered anew, in another order."""
    rows = torch.tensor(order)
    labels = torch.tensor(new_number)[examples.labels]
    return Examples(examples.images[rows], labels[rows], examples.n_way)


def slope_along(f: Callable[[Tensors], float], at: Tensors, direction: Tensors, h: float) -> float:
    """Return the derivative of ``f`` along a direction, by a central difference."""
    ahead = f({name: leaf + h * direction[name] for name, leaf in at.items()})
    behind = f({name: leaf - h * direction[name] for name, leaf in at.items()})
    return (ahead - behind) / (2 * h)


def inner_product(one: Tensors, other: Tensors) -> float:
    return sum(float((one[name] * other[name]).sum()) for name in one)


def assert_same(one: Tensors, other: Tensors, rtol: float = 1e-7, atol: float = 1e-10) -> None:
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=atol)


def striped_task(site: str = "north") -> Task:
    """Return 36 patients of an image each; a finding is a bright stripe at a height of its own."""
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 12)
    images = (rng.normal(size=(36, 1, 16, 16)) * 0.1 + 0.5).astype(np.float32)
    for index, label in enumerate(labels):
        images[index, 0, 4 * label : 4 * label + 4] += 0.4
    return Task(site, images, labels, np.arange(36), ("a", "b", "c"))
