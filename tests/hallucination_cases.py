"""What tests of the hallucination learner share: a body for two pixels, a few images, noise."""

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import HallucinationSettings
from metaward.meta.compose import build_learner
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.tasks import Task
from metaward.theta import OWN

MODEL = ModelSettings(image_size=16, filters=8, groups=2)
WAYS, SHOTS, DRAWS = 3, 2, 4
SMALL = HallucinationSettings(
    n_way=WAYS, n_shot=SHOTS, n_query=2, episodes=2, augment="none",
    n_generated=DRAWS, latent_size=3, hidden=5, adversarial_weight=0.7,
)  # fmt: skip
GENERATOR, DISCRIMINATOR = OWN + "generator.", OWN + "discriminator."


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
