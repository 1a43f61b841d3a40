"""What tests of the memory-augmented learner share: a body for two pixels, and short sequences."""

from collections.abc import Sequence

import pytest
import torch

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import MannSettings
from metaward.meta.compose import build_learner
from metaward.models.body import Body

SMALL = MannSettings(
    n_way=3, n_shot=2, n_query=1, episodes=2, augment="none",
    hidden=6, memory_rows=5, memory_width=4, read_heads=2, usage_decay=0.9, key_strength=2.0,
    body_weight=0.5, labels_come="late",
)  # fmt: skip
BESIDE = SMALL.model_copy(update={"labels_come": "beside"})
both_ways = pytest.mark.parametrize("learner", [SMALL, BESIDE], ids=lambda s: s.labels_come)


class PixelBody(Body):
    """features = pixels, for images of two."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.flatten(1)


BODY = PixelBody()


def theta_of(settings: MannSettings = SMALL, seed: int = 3) -> Tensors:
    """Return theta in float64, its own leaves larger than at a start, so that all of it matters."""
    own = build_learner(settings).own_parameters(BODY, seed)
    return BODY.initial_parameters() | {name: 2.0 * leaf.double() for name, leaf in own.items()}


def random_sequence(labels: Sequence[int] = (0, 2, 1, 1, 0, 0, 2), seed: int = 1) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(labels), 2, 1, 1, generator=generator, dtype=torch.float64)
    return Examples(images, torch.tensor(labels), 3)


def random_episode(seed: int = 1, last: int = 2) -> Episode:
    query = random_sequence((2, 0, 1), seed=seed + 100)
    return Episode(random_sequence((0, 2, 1, 1, 0, 2 - last, last), seed=seed), query)


def followed_by(sequence: Examples, query: Examples, row: int) -> Examples:
    """Return the sequence with one query image after it."""
    return Examples(
        torch.cat([sequence.images, query.images[row : row + 1]]),
        torch.cat([sequence.labels, query.labels[row : row + 1]]),
        sequence.n_way,
    )
