"""Group normalisation whose gradient can be differentiated at little cost.

Wu and He 2018, arXiv:1803.08494, equations 1, 2 and 6: with mu and r = 1 / sqrt(var + eps) over the
m numbers of an image's group,

    x^ = r (x - mu),   y = scale x^ + shift

torch has fast kernels for that and for its gradient. But a gradient that is differentiated in turn,
as in second-order MAML, it takes apart into some thirty products and sums over whole maps. Where
:func:`gradients_are_differentiated`, the kernels are used there too, and then, from the chain rule
with angle brackets for the mean over a group,

    P(z) = z - <z> - x^ <z x^>
    dx = r P(scale g),   dscale = sum of g x^,   dshift = sum of g           g: the gradient at y

and for cotangents u, a, b of these three, the second derivative is

    at g:      scale r P(u) + a x^ + b
    at scale:  sum of g r P(u)
    at x:      r P(a g - r (scale <u x^> g + <scale g x^> u)) - r x^ <u dx>

Each is a number times g, plus one times u, plus one times x, plus one; the numbers, of each channel
of each image, follow from the sums of u, g, u x, g x and u g over a channel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Maps = torch.Tensor
"""(n, channels, height, width)."""

_DIFFERENTIATED = ContextVar("gradients are differentiated", default=False)


@contextmanager
def gradients_are_differentiated(yes: bool = True) -> Iterator[None]:
    """Let the gradients of what is computed in this context be cheap to differentiate in turn.

    Taken once they are the same to the bit, and cost a tenth more. Inside of ``torch.func.vmap``,
    which cannot tell what layout maps have, it has to be ``False``.
    """
    token = _DIFFERENTIATED.set(yes)
    try:
        yield
    finally:
        _DIFFERENTIATED.reset(token)


class GroupNorm(nn.GroupNorm):
    """torch's layer by :func:`group_norm`."""

    def forward(self, maps: Maps) -> Maps:
        """Return the normed maps."""
        return group_norm(maps, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(
    maps: Maps, groups: int, scale: torch.Tensor, shift: torch.Tensor, eps: float
) -> Maps:
    """Return what ``torch.nn.functional.group_norm`` does, to the bit.

    Args:
        maps: (n, channels, height, width).
        groups: Divides the channels.
        scale: (channels,).
        shift: (channels,).
        eps: Added to the variance.
    """
    if not _DIFFERENTIATED.get():
        return F.group_norm(maps, groups, scale, shift, eps)
    normed: Maps = _Norm.apply(maps, groups, scale, shift, eps)[0]  # type: ignore[no-untyped-call]
    return normed


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        maps: Maps, groups: int, scale: torch.Tensor, shift: torch.Tensor, eps: float
    ) -> tuple[Maps, torch.Tensor, torch.Tensor]:
        n, channels, height, width = maps.shape
        return torch.native_group_norm(
            _dense(maps, maps), scale, shift, n, channels, height * width, groups, eps
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        maps, ctx.groups, scale, _, _ = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(maps, scale, mean, rstd)

    @staticmethod
    def backward(ctx: Any, at_output: Maps, *_: object) -> tuple[torch.Tensor | None, ...]:
        maps, scale, mean, rstd = ctx.saved_tensors
        at_maps, at_scale, at_shift = _NormBackward.apply(  # type: ignore[no-untyped-call]
            at_output, maps, scale, mean, rstd, ctx.groups
        )
        return at_maps, None, at_scale, at_shift, None


class _NormBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        at_output: Maps,
        maps: Maps,
        scale: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        groups: int,
    ) -> tuple[Maps, torch.Tensor, torch.Tensor]:
        n, channels, height, width = maps.shape
        found: tuple[Maps, torch.Tensor, torch.Tensor] = (
            torch.ops.aten.native_group_norm_backward(
                _dense(at_output, maps), _dense(maps, maps), mean, rstd, scale,
                n, channels, height * width, groups, [True, True, True],
            )
        )  # fmt: skip
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:  # noqa: ARG004 (torch's signature)
        at_output, maps, scale, mean, rstd, ctx.groups = inputs
        ctx.save_for_backward(at_output, maps, scale, mean, rstd)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, u: Maps, a: torch.Tensor, b: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return the second derivative at the gradient at the output, at the maps, at the scale."""
        g, x, scale, mean, rstd = ctx.saved_tensors
        n, channels, height, width = x.shape
        per_group = channels // ctx.groups

        def group_mean(channel_sums: torch.Tensor) -> torch.Tensor:
            of_groups = channel_sums.view(n, ctx.groups, per_group).sum(dim=2)
            return _to_channels(of_groups / (per_group * height * width), per_group)

        r, mu = (_to_channels(known.view(n, ctx.groups), per_group) for known in (rstd, mean))
        u_sum, g_sum = u.sum(dim=(2, 3)), g.sum(dim=(2, 3))
        ug_sum = (u * g).sum(dim=(2, 3))
        ux_sum = r * ((u * x).sum(dim=(2, 3)) - mu * u_sum)  # of u x^
        gx_sum = r * ((g * x).sum(dim=(2, 3)) - mu * g_sum)
        u_mean, ux_mean = group_mean(u_sum), group_mean(ux_sum)
        g_mean, gx_mean = group_mean(scale * g_sum), group_mean(scale * gx_sum)  # of scale g
        udx_mean = r * (group_mean(scale * ug_sum) - u_mean * g_mean - ux_mean * gx_mean)

        at_scale = (r * (ug_sum - u_mean * g_sum - ux_mean * gx_sum)).sum(dim=0)

        of_x = r * (a - scale * r * ux_mean)
        at_g = _combined([(scale * r, u), (of_x, x)], b - scale * r * u_mean - of_x * mu)

        of_g, of_u = a - r * scale * ux_mean, -r * gx_mean
        z_mean = group_mean(of_g * g_sum + of_u * u_sum)
        zx_mean = group_mean(of_g * gx_sum + of_u * ux_sum)
        of_x = -(r**2) * (zx_mean + udx_mean)
        at_x = _combined([(r * of_g, g), (r * of_u, u), (of_x, x)], -r * z_mean - of_x * mu)
        return at_g, at_x, at_scale, None, None, None


def _dense(maps: Maps, like: Maps) -> Maps:
    """Return maps in the layout that torch's kernels take ``like`` in, a copy if need be."""
    last = like.device.type == "cpu" and not like.is_contiguous()
    return maps.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _to_channels(of_groups: torch.Tensor, per_group: int) -> torch.Tensor:
    """Return (n, channels) from (n, groups)."""
    return of_groups.repeat_interleave(per_group, dim=1)


def _combined(terms: list[tuple[torch.Tensor, Maps]], constant: torch.Tensor) -> Maps:
    """Return the sum of maps times numbers, plus numbers; (n, channels) of them each."""
    total = constant[:, :, None, None]
    for numbers, maps in terms:
        total = torch.addcmul(total, numbers[:, :, None, None], maps)
    return total
