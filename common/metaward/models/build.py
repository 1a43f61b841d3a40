"""Make a body of what a study says of it, with weights that its seed gives."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.conv4 import Conv4
from metaward.models.resnet import SmallResNet


def build_body(settings: ModelSettings, seed: int) -> Body:
    """Build a body whose initial weights depend on ``seed`` alone.

    The global random state of torch is left as it was.
    """
    with seeded(seed):
        match settings.name:
            case "conv4":
                return Conv4(settings)
            case "resnet":
                return SmallResNet(settings)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let weights drawn in this context depend on ``seed`` alone, and then forget it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
