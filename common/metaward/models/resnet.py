"""A small residual network, whose features do not depend on the size of an image."""

import torch
from torch import nn
from torch.nn import functional as F

from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.group_norm import GroupNorm


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
