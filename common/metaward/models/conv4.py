"""Four blocks of convolution, the network of most few-shot papers."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.model_settings import CONV4_BLOCKS, ModelSettings
from metaward.models.body import Body, in_fastest_layout
from metaward.models.group_norm import GroupNorm, group_norm

NORM_EPS = 1.0e-5
"""What GroupNorm adds to the variance."""


class Conv4(Body):
    """Four blocks of 3x3 convolution, GroupNorm, (2x2 max-pool,) ReLU (Vinyals et al. 2016).

    With ``downsample="stride"`` the convolutions have stride 2 in place of the pool (Finn et al.
    2017, Omniglot). Blocks behind the first ``downsampled_blocks`` do neither (two, and pools: Sung
    et al. 2018). The pool stands before the ReLU: the two commute exactly, and a quarter of
    the elements go through the ReLU. No bias before a norm, which has a shift of
    its own.
    """

    groups_tasks = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width, halved = settings.filters, settings.downsampled_blocks
        rest = CONV4_BLOCKS - halved
        pooled = settings.downsample == "pool"
        self.strides = [1 if pooled else 2] * halved + [1] * rest
        self.pooled = [pooled] * halved + [False] * rest
        channels = [settings.channels, *[width] * CONV4_BLOCKS]
        self.convs = nn.ModuleList(
            nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
            for (fan_in, fan_out), stride in zip(pairwise(channels), self.strides, strict=True)
        )
        self.norms = nn.ModuleList(
            GroupNorm(settings.groups, width, NORM_EPS) for _ in range(CONV4_BLOCKS)
        )
        self.groups = settings.groups
        side = settings.side_after(halved)
        self.map_channels, self.map_side = width, side
        self.features = width * side * side

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, filters, side, side) from (n, channels, size, size)."""
        hidden = in_fastest_layout(images)
        for conv, norm, pooled in zip(self.convs, self.norms, self.pooled, strict=True):
            hidden = norm(conv(hidden))
            if pooled:
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
        for block, stride in enumerate(self.strides):
            kernel = leaves[f"convs.{block}.weight"].flatten(0, 1)
            hidden = F.conv2d(hidden, kernel, None, stride, padding=1, groups=n_tasks)
            scale, shift = leaves[f"norms.{block}.weight"], leaves[f"norms.{block}.bias"]
            hidden = group_norm(
                hidden, n_tasks * self.groups, scale.flatten(), shift.flatten(), NORM_EPS
            )
            if self.pooled[block]:
                hidden = F.max_pool2d(hidden, 2)
            hidden = F.relu(hidden)
        return hidden.reshape(n, n_tasks, -1).transpose(0, 1)

    def by_products(self, leaves: Tensors, images: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`apply_side_by_side` does, by products with every 3x3 patch.

        A patch of all channels is a row, and each task's kernels are the columns of one matrix.
        """
        n_tasks, n = images.shape[:2]
        hidden = images.flatten(0, 1)
        for block, stride in enumerate(self.strides):
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
            if self.pooled[block]:
                hidden = F.max_pool2d(hidden, 2)
            hidden = F.relu(hidden)
        return hidden.reshape(n_tasks, n, -1)
