"""Bodies: networks from images to features, without a head.

GroupNorm everywhere and no buffers: a batch statistic would mix patients, break differential
privacy, and make few-shot scores depend on the other query images.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.models.group_norm import (
    GroupNorm,
    gradients_are_differentiated,
    group_norm,
)
from metaward.study import ModelSettings
from metaward.theta import body_leaves

NORM_EPS = 1.0e-5
"""What GroupNorm adds to the variance."""


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


class Conv4(Body):
    """Four blocks of 3x3 convolution, GroupNorm, (2x2 max-pool,) ReLU (Vinyals et al. 2016).

    With ``downsample="stride"`` the convolutions have stride 2 in place of the pool (Finn et al.
    2017, Omniglot). The pool stands before the ReLU: the two commute exactly, and a quarter of
    the elements go through the ReLU. No bias before a norm, which has a shift of
    its own.
    """

    groups_tasks = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.filters
        pooled = settings.downsample == "pool"
        channels = [settings.channels, width, width, width, width]
        self.convs = nn.ModuleList(
            nn.Conv2d(fan_in, fan_out, 3, stride=1 if pooled else 2, padding=1, bias=False)
            for fan_in, fan_out in pairwise(channels)
        )
        self.norms = nn.ModuleList(GroupNorm(settings.groups, width, NORM_EPS) for _ in range(4))
        self.pooled = pooled
        self.groups = settings.groups
        side = settings.image_size
        for _ in range(4):
            side = side // 2 if pooled else math.ceil(side / 2)
        self.map_channels, self.map_side = width, side
        self.features = width * side * side

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, filters, side, side) from (n, channels, size, size)."""
        hidden = in_fastest_layout(images)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            hidden = norm(conv(hidden))
            if self.pooled:
                hidden = F.max_pool2d(hidden, 2)
            hidden = F.relu(hidden)
        return hidden

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, features) from (n, channels, size, size)."""
        return self.maps(images).flatten(1)

    def apply_side_by_side(self, leaves: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return (tasks, n, features) as :class:`Body` does.

        On a CPU by convolutions in groups: task t's channels are group t. On an accelerator, whose
        convolutions in groups are slow in float32, by one product of matrices for each task.
        """
        if images.device.type != "cpu":
            return self.by_products(leaves, images)
        return self.by_groups(leaves, images)

    def by_groups(self, leaves: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`apply_side_by_side` does: one convolution does the work of all."""
        n_tasks, n = images.shape[:2]
        hidden = images.transpose(0, 1).flatten(1, 2).to(memory_format=torch.channels_last)
        for block in range(4):
            kernel = leaves[f"convs.{block}.weight"].flatten(0, 1)
            stride = 1 if self.pooled else 2
            hidden = F.conv2d(hidden, kernel, None, stride, padding=1, groups=n_tasks)
            scale, shift = leaves[f"norms.{block}.weight"], leaves[f"norms.{block}.bias"]
            hidden = group_norm(
                hidden, n_tasks * self.groups, scale.flatten(), shift.flatten(), NORM_EPS
            )
            if self.pooled:
                hidden = F.max_pool2d(hidden, 2)
            hidden = F.relu(hidden)
        return hidden.reshape(n, n_tasks, -1).transpose(0, 1)

    def by_products(self, leaves: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`apply_side_by_side` does, by products with every 3x3 patch.

        A patch of all channels is a row, and each task's kernels are the columns of one matrix.
        """
        n_tasks, n = images.shape[:2]
        stride = 1 if self.pooled else 2
        hidden = images.flatten(0, 1)
        for block in range(4):
            kernel = leaves[f"convs.{block}.weight"].flatten(2)  # (tasks, fan out, fan in * 9)
            patches = F.pad(hidden, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride)
            _, _, height, width = patches.shape[:4]
            rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(n_tasks, -1, kernel.shape[2])
            maps = torch.bmm(rows, kernel.mT).view(n_tasks * n, height, width, -1)
            normed = F.group_norm(maps.permute(0, 3, 1, 2), self.groups, eps=NORM_EPS)
            scale, shift = leaves[f"norms.{block}.weight"], leaves[f"norms.{block}.bias"]
            hidden = normed.reshape(n_tasks, n, -1, height, width)
            hidden = hidden * scale[:, None, :, None, None] + shift[:, None, :, None, None]
            hidden = hidden.flatten(0, 1)
            if self.pooled:
                hidden = F.max_pool2d(hidden, 2)
            hidden = F.relu(hidden)
        return hidden.reshape(n_tasks, n, -1)


def in_fastest_layout(images: torch.Tensor) -> torch.Tensor:
    """Return images in the layout in which convolutions and pools are fastest on their device.

    On a CPU that is channels last. Not by contiguous(): it leaves an image of one channel as it is,
    and with it the layout of every later block.
    """
    if images.device.type == "cpu":
        return images.to(memory_format=torch.channels_last)
    return images.contiguous()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut; nothing is changed in place."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = GroupNorm(groups, fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = GroupNorm(groups, fan_out)
        self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the block's output, half as high and wide when the stride is 2."""
        out = F.relu(self.norm1(self.conv1(hidden)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(hidden))


class SmallResNet(Body):
    """Three residual stages of width 1, 2 and 4 times ``filters``, then the mean over positions."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width, groups = settings.filters, settings.groups
        self.stem = nn.Conv2d(settings.channels, width, 3, padding=1, bias=False)
        self.stem_norm = GroupNorm(groups, width)
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, 2, groups),
            ResidualBlock(width, 2 * width, 2, groups),
            ResidualBlock(2 * width, 4 * width, 2, groups),
        )
        self.map_channels, self.map_side = 4 * width, settings.last_norm_side()
        self.features = 4 * width

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 4 filters, side, side) from (n, channels, size, size)."""
        # Not channels_last: no faster here, and torch 2.13's backward of a 1x1 convolution with
        # stride 2 writes outside its memory in that layout, with two threads.
        hidden = F.relu(self.stem_norm(self.stem(images.contiguous())))
        maps: torch.Tensor = self.blocks(hidden)
        return maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, features) from (n, channels, size, size)."""
        return self.maps(images).mean(dim=(2, 3))


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
