"""The meta-batches that are timed: which episodes, through which network, with which inner loop."""

from dataclasses import dataclass, replace

import torch

from metaward.episodes import Episode, Examples
from metaward.model_settings import ModelSettings

N_WAY, N_QUERY, SIZE, META_BATCH = 5, 15, 28, 4
STEPS, LR, REPTILE_BATCH = 5, 0.4, 10


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    learner: str
    filters: int
    shots: int


def episodes_of(case: Case, meta_batch: int = META_BATCH, device: str = "cpu") -> list[Episode]:
    generator = torch.Generator().manual_seed(0)

    def examples(per_class: int) -> Examples:
        labels = torch.arange(N_WAY).repeat_interleave(per_class)
        images = torch.randn(len(labels), 1, SIZE, SIZE, generator=generator)
        return Examples(images.to(device), labels.to(device), N_WAY)

    return [Episode(examples(case.shots), examples(N_QUERY)) for _ in range(meta_batch)]


def in_float64(episodes: list[Episode]) -> list[Episode]:
    return [
        replace(
            episode,
            support=replace(episode.support, images=episode.support.images.double()),
            query=replace(episode.query, images=episode.query.images.double()),
        )
        for episode in episodes
    ]


def model_of(case: Case) -> ModelSettings:
    return ModelSettings(filters=case.filters, image_size=SIZE, downsample="pool", groups=4)
