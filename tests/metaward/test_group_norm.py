"""Group norm: torch's numbers to the bit, and a second derivative that is right."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from metaward.episodes import Examples
from metaward.meta.head import zero_head
from metaward.meta.inner_loop import loss_and_gradient
from metaward.meta.parameters import Parameters
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.models.group_norm import GroupNorm, gradients_are_differentiated, group_norm

EPS = 1.0e-5
LAYOUTS = (torch.contiguous_format, torch.channels_last)

Leaves = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Maps (3, 6, 4, 5), scale and shift."""

pytestmark = pytest.mark.usefixtures("one_thread")
in_both_layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["rows", "channels-last"])


def drawn(layout: torch.memory_format, dtype: torch.dtype = torch.float64) -> Leaves:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 6, 4, 5, generator=generator, dtype=dtype) * 2 + 1
    scale, shift = torch.randn(2, 6, generator=generator, dtype=dtype)
    leaves = (maps.to(memory_format=layout), scale.clone(), shift.clone())
    return tuple(leaf.requires_grad_() for leaf in leaves)  # type: ignore[return-value]


def ours(maps: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    with gradients_are_differentiated():
        return group_norm(maps, 3, scale, shift, EPS)


def torchs(maps: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    return F.group_norm(maps, 3, scale, shift, EPS)


def grad_of(norm: Callable[..., torch.Tensor], leaves: Leaves) -> tuple[torch.Tensor, ...]:
    """Return the gradient of a loss that weighs each number otherwise, to be differentiated."""
    normed = norm(*leaves)
    weights = torch.linspace(-1, 2, normed.numel(), dtype=normed.dtype).view(normed.shape)
    return torch.autograd.grad((weights * normed.sin()).sum(), leaves, create_graph=True)


@in_both_layouts
def test_first_and_second_derivatives_are_those_of_finite_differences(
    layout: torch.memory_format,
) -> None:
    leaves = drawn(layout)
    assert torch.autograd.gradcheck(ours, leaves)
    assert torch.autograd.gradgradcheck(ours, leaves)


@in_both_layouts
def test_the_second_derivative_is_that_of_torch(layout: torch.memory_format) -> None:
    found = []
    for norm in (ours, torchs):
        leaves = drawn(layout)
        first = grad_of(norm, leaves)
        found.append(torch.autograd.grad(sum((leaf.cos()).sum() for leaf in first), leaves))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@in_both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_and_gradient_are_torchs_to_the_bit(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    found = []
    for norm in (ours, torchs):
        leaves = drawn(layout, dtype)
        normed = norm(*leaves)
        found.append((normed, *torch.autograd.grad(normed.square().sum(), leaves)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


def test_without_the_context_the_gradient_is_torchs_own() -> None:
    leaves = drawn(torch.channels_last)
    with gradients_are_differentiated():
        inside = group_norm(leaves[0], 3, leaves[1], leaves[2], EPS)
    outside = group_norm(leaves[0], 3, leaves[1], leaves[2], EPS)
    assert inside.grad_fn is not None
    assert outside.grad_fn is not None
    assert outside.grad_fn.name() == "NativeGroupNormBackward0" != inside.grad_fn.name()


@pytest.mark.parametrize("create_graph", [True, False])
def test_an_inner_step_that_is_differentiated_has_this_norm_and_no_other_step(
    create_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def noting(self: GroupNorm, maps: torch.Tensor) -> torch.Tensor:
        normed = group_norm(maps, self.num_groups, self.weight, self.bias, self.eps)
        assert normed.grad_fn is not None
        asked.append(normed.grad_fn.name() != "NativeGroupNormBackward0")
        return normed

    monkeypatch.setattr(GroupNorm, "forward", noting)
    settings = ModelSettings(filters=8, groups=2, image_size=16)
    body = build_body(settings, seed=0)
    images, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 0, 1])
    head = zero_head(body.features, 2, like=images, tasks=())
    at = Parameters(body.initial_parameters(), head).detached()
    loss_and_gradient(body, at, Examples(images, labels, 2), create_graph=create_graph)
    assert asked == [create_graph] * 4


def test_the_layer_is_torchs_with_the_same_leaves() -> None:
    maps, *_ = drawn(torch.contiguous_format, torch.float32)
    one, other = GroupNorm(3, 6, EPS), torch.nn.GroupNorm(3, 6, EPS)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(one(maps), other(maps))


@pytest.mark.parametrize("name", ["conv4", "resnet"])
def test_second_derivatives_of_tasks_side_by_side_are_those_of_each(name: str) -> None:
    settings = ModelSettings.model_validate(
        {"name": name, "filters": 8, "groups": 2, "image_size": 16}
    )
    body, found = build_body(settings, seed=0), []
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 5, 1, 16, 16, generator=generator, dtype=torch.float64)
    for at_once in (True, False):
        phi = {
            leaf: torch.stack([value.double() * (1 + task / 10) for task in range(3)])
            for leaf, value in body.initial_parameters().items()
        }
        phi = {leaf: value.requires_grad_() for leaf, value in phi.items()}
        with gradients_are_differentiated():
            if at_once:
                features = body.apply_side_by_side(phi, images)
            else:
                each = [{leaf: value[task] for leaf, value in phi.items()} for task in range(3)]
                pairs = zip(each, images, strict=True)
                features = torch.stack([body.apply_with(*own) for own in pairs])
        first = torch.autograd.grad(features.square().sum(), list(phi.values()), create_graph=True)
        total = torch.stack([leaf.cos().sum() for leaf in first]).sum()
        found.append(torch.autograd.grad(total, list(phi.values())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
