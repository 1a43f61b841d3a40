"""What every body is: a network from images to features, without a head.

GroupNorm everywhere and no buffers: a batch statistic would mix patients, break differential
privacy, and make few-shot scores depend on the other query images.
"""

import torch
from torch import nn
from torch.func import functional_call

from metaward.arrays import Tensors
from metaward.models.group_norm import gradients_are_differentiated
from metaward.theta import body_leaves


class Body(nn.Module):
    """A network from standardised images (n, channels, size, size) to features (n, features).

    Features are made from a map: what the last block gives, before it is flattened or averaged.

    Attributes:
        features: Numbers per image.
        map_channels: Channels of the map.
        map_side: Its height and width in pixels.
        groups_tasks: Whether side by side is one convolution for all tasks, which gains on a CPU
            too.
    """

    groups_tasks: bool = False
    features: int
    map_channels: int
    map_side: int

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the maps of ``images``, (n, map_channels, map_side, map_side).

        Raises:
            NotImplementedError: This body gives features alone, and suits no relation network.
        """
        raise NotImplementedError(type(self).__name__)

    def apply_with(self, theta: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return the features of ``images`` under the body's leaves of ``theta``.

        Images of several tasks, (tasks, n, channels, size, size), give (tasks, n, features).
        """
        if images.ndim == 5:
            together = self.apply_with(theta, images.flatten(0, 1))
            return together.view(*images.shape[:2], -1)
        features: torch.Tensor = functional_call(self, body_leaves(theta), (images,))
        return features

    def maps_with(self, theta: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return the maps of ``images`` under the body's leaves of ``theta``."""
        leaves = {f"body.{name}": leaf for name, leaf in body_leaves(theta).items()}
        maps: torch.Tensor = functional_call(_Maps(self), leaves, (images,))
        return maps

    def apply_each(self, phi: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return the features of several tasks' images, each under parameters of its own.

        All at once, or task by task where that is faster: on a CPU, unless a step is small.

        Args:
            phi: Parameters; every leaf has a first axis of tasks.
            images: (tasks, n, channels, size, size).

        Returns:
            (tasks, n, features).
        """
        leaves = body_leaves(phi)
        if images.device.type != "cpu" or gains_from_groups(self, images.shape[1]):
            return self.apply_side_by_side(leaves, images)
        apart = zip(*(leaf.unbind() for leaf in leaves.values()), strict=True)
        tasks = zip(apart, images, strict=True)
        each = [self.apply_with(dict(zip(leaves, own, strict=True)), seen) for own, seen in tasks]
        return torch.stack(each)

    def apply_side_by_side(self, leaves: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`apply_each` does, always at once."""
        with gradients_are_differentiated(False):
            features: torch.Tensor = torch.func.vmap(self.apply_with)(leaves, images)
        return features

    def initial_parameters(self) -> Tensors:
        """Return a copy of the parameters that this module was built with."""
        return {name: leaf.detach().clone() for name, leaf in self.named_parameters()}


SMALL_STEP = 400
"""Images times channels of one task up to which tasks gain on a CPU by standing side by side."""


def gains_from_groups(body: Body, n_images: int) -> bool:
    """Say whether tasks of so many images gain on a CPU by convolutions in groups."""
    return body.groups_tasks and n_images * body.map_channels <= SMALL_STEP


class _Maps(nn.Module):
    """A body whose output is its map."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the maps of ``images``."""
        return self.body.maps(images)


def in_fastest_layout(images: torch.Tensor) -> torch.Tensor:
    """Return images in the layout in which convolutions and pools are fastest on their device.

    On a CPU that is channels last. Not by contiguous(): it leaves an image of one channel as it is,
    and with it the layout of every later block.
    """
    if images.device.type == "cpu":
        return images.to(memory_format=torch.channels_last)
    return images.contiguous()
