"""Each patient's gradient, all at once, is what plain autograd finds for that patient alone."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from gradient_networks import MODELS
from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.head import Head
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward_client.privacy.patient_gradients import (
    patient_gradients,
    require_rules,
)

N_WAY = 3
COUNTS = (4, 1, 3)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """On small networks two threads only wait for each other."""


class Plain(Body):
    """A body of given parts, one after the other."""

    def __init__(self, *parts: nn.Module, features: int) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)
        self.features = features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.parts(images)
        return features.flatten(1)


class Twice(Body):
    """One convolution and one norm, which every image goes through twice."""

    features = 2 * 4 * 4

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.GroupNorm(1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images)
        for _ in range(2):
            hidden = torch.tanh(self.norm(self.conv(hidden)))
        return hidden.flatten(1)


def parameters_of(body: Body, seed: int = 1) -> Parameters:
    """Parameters of body and head in float64, each moved off its start, zeros and ones too."""
    generator = torch.Generator().manual_seed(seed)

    def moved(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.double() + 0.3 * torch.randn(leaf.shape, generator=generator).double()

    leaves = {name: moved(leaf) for name, leaf in body.initial_parameters().items()}
    head = Head(moved(torch.zeros(N_WAY, body.features)), moved(torch.zeros(N_WAY)))
    return Parameters(leaves, head)


def images_of(counts: Sequence[int], channels: int, side: int) -> Examples:
    n, generator = sum(counts), torch.Generator().manual_seed(2)
    images = torch.randn(n, channels, side, side, generator=generator, dtype=torch.double)
    return Examples(images, torch.randint(0, N_WAY, (n,), generator=generator), N_WAY)


def loss_of(
    body: Body, leaves: Tensors, head: Head, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    features = functional_call(body, leaves, (images,))
    return F.cross_entropy(features @ head.weight.T + head.bias, labels)


def by_autograd(
    body: Body, at: Parameters, examples: Examples, counts: Sequence[int]
) -> tuple[Tensors, torch.Tensor]:
    """One patient after the other, each in a plain backward pass."""
    gradients, losses = [], []
    for images, labels in zip(
        examples.images.split(list(counts)), examples.labels.split(list(counts)), strict=True
    ):
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in at.body.items()}
        loss = loss_of(body, leaves, at.head, images, labels)
        gradients.append(torch.autograd.grad(loss, list(leaves.values())))
        losses.append(loss.detach())
    stacked = [torch.stack(each) for each in zip(*gradients, strict=True)]
    return dict(zip(at.body, stacked, strict=True)), torch.stack(losses)


def require_equal(body: Body, examples: Examples, counts: Sequence[int]) -> None:
    at = parameters_of(body)
    expected, expected_losses = by_autograd(body, at, examples, counts)
    found, losses = patient_gradients(body, at, examples, counts)
    assert found.keys() == at.body.keys()
    torch.testing.assert_close(losses, expected_losses, rtol=1e-12, atol=0)
    for name, leaf in expected.items():
        assert leaf.abs().max() > 1e-6  # else nothing is compared
        torch.testing.assert_close(found[name], leaf, rtol=1e-9, atol=1e-12)


# By hand


def test_one_pixel_one_weight() -> None:
    """Two patients, two labels.

    Image x = 2 through the 1x1 weight w = 3 is 6; logits (6, 0) for the head (1, 0). Label 1 has
    the probability 1 / (1 + e^6) = s, so the gradient at the logits is (1 - s, s - 1). At the
    convolution's output: 1 - s; at w: (1 - s) x = 2 (1 - s).
    The second patient has x = 0: logits (0, 0), a loss of log 2, and nothing at w.
    """
    body = Plain(nn.Conv2d(1, 1, 1, bias=False), features=1)
    leaves = {"parts.0.weight": torch.full((1, 1, 1, 1), 3.0)}
    at = Parameters(leaves, Head(torch.tensor([[1.0], [0.0]]), torch.zeros(2)))
    images = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1)
    found, losses = patient_gradients(body, at, Examples(images, torch.tensor([1, 1]), 2), (1, 1))
    rest = 1 - 1 / (1 + torch.tensor(6.0).exp())
    torch.testing.assert_close(found["parts.0.weight"].ravel(), torch.stack([2 * rest, 0 * rest]))
    torch.testing.assert_close(losses[1], torch.tensor(2.0).log())


# Against plain autograd


@pytest.mark.parametrize("counts", [COUNTS, (2, 2, 2), (1, 1, 1), (5,)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_those_of_plain_autograd_one_patient_after_the_other(
    name: str, counts: tuple[int, ...]
) -> None:
    model = MODELS[name]
    body = build_body(model, seed=0)
    require_equal(body, images_of(counts, model.channels, model.image_size), counts)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(2, 0)),
        nn.Conv2d(2, 3, (1, 4), stride=(1, 3), padding=(0, 1), bias=False),
        nn.GroupNorm(2, 2, eps=0.1),
    ],
    ids=str,
)
def test_every_layer_with_a_rule_has_the_right_one(layer: nn.Module) -> None:
    side = layer(torch.zeros(1, 2, 7, 7)).flatten().shape[0]
    body = Plain(nn.GroupNorm(1, 2, affine=False), layer, nn.Tanh(), features=side)
    require_rules(body)
    require_equal(body, images_of(COUNTS, 2, 7), COUNTS)


def test_gradients_equal_those_of_vmap() -> None:
    model = MODELS["resnet"]
    body = build_body(model, seed=0)
    at = parameters_of(body)
    examples = images_of((2, 2, 2), 1, 16)
    each = vmap(
        grad(
            lambda images, labels, leaves: loss_of(body, leaves, at.head, images, labels), argnums=2
        ),
        in_dims=(0, 0, None),
    )
    expected = each(examples.images.view(3, 2, 1, 16, 16), examples.labels.view(3, 2), at.body)
    found, _ = patient_gradients(body, at, examples, (2, 2, 2))
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-9, atol=1e-12)


def test_a_layer_that_is_used_twice_counts_both_uses() -> None:
    body = Twice()
    require_rules(body)
    require_equal(body, images_of(COUNTS, 1, 4), COUNTS)


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_are_found_where_none_are_asked_for(inference: bool) -> None:
    """Callers may hold gradients off; and who has parameters with gradients gets none attached."""
    body = build_body(MODELS["stride"], seed=0)
    at = parameters_of(body)
    for leaf in at.leaves():
        leaf.requires_grad_(not inference)
    with torch.set_grad_enabled(not inference):
        found, losses = patient_gradients(body, at, images_of(COUNTS, 1, 16), COUNTS)
    assert all(leaf.any() for leaf in found.values())
    assert not any(leaf.requires_grad for leaf in (*found.values(), losses))


# Nobody touches another


def test_an_image_that_is_no_image_touches_only_its_own_patients_gradient() -> None:
    body = build_body(MODELS["resnet"], seed=0)
    at, examples = parameters_of(body), images_of(COUNTS, 1, 16)
    clean, _ = patient_gradients(body, at, examples, COUNTS)
    broken = examples.images.clone()
    broken[4, 0, 3, 3] = torch.nan  # the one image of the second patient
    found, losses = patient_gradients(body, at, Examples(broken, examples.labels, N_WAY), COUNTS)
    assert losses.isnan().tolist() == [False, True, False]
    for name, leaf in clean.items():
        assert not found[name][1].isfinite().all()
        torch.testing.assert_close(found[name][[0, 2]], leaf[[0, 2]], rtol=1e-12, atol=1e-15)


def test_another_patients_images_change_nothing() -> None:
    body = build_body(MODELS["pool"], seed=0)
    at, examples = parameters_of(body), images_of(COUNTS, 1, 32)
    before, _ = patient_gradients(body, at, examples, COUNTS)
    other = examples.images.clone()
    other[:4] = -3.0 * other[:4].flip(3)
    after, _ = patient_gradients(body, at, Examples(other, examples.labels, N_WAY), COUNTS)
    for name, leaf in before.items():
        assert not torch.equal(after[name][0], leaf[0])
        torch.testing.assert_close(after[name][1:], leaf[1:], rtol=1e-12, atol=1e-15)


# What is left behind


def hooks_of(body: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in body.modules())


def test_parameters_and_body_are_left_as_they_were() -> None:
    body = build_body(MODELS["resnet"], seed=0)
    own = body.initial_parameters()
    at, examples = parameters_of(body), images_of(COUNTS, 1, 16)
    given = [leaf.clone() for leaf in at.leaves()]
    images = examples.images.clone()
    patient_gradients(body, at, examples, COUNTS)
    assert hooks_of(body) == 0
    assert all(leaf.grad is None for leaf in body.parameters())
    assert all(leaf.requires_grad for leaf in body.parameters())
    assert not any(leaf.requires_grad or leaf.grad is not None for leaf in at.leaves())
    assert not examples.images.requires_grad
    assert torch.equal(examples.images, images)
    assert all(map(torch.equal, at.leaves(), given))
    assert all(torch.equal(leaf, own[name]) for name, leaf in body.named_parameters())


def test_no_hook_stays_behind_when_the_network_fails() -> None:
    body = build_body(MODELS["stride"], seed=0)
    with pytest.raises(RuntimeError):
        patient_gradients(body, parameters_of(body), images_of(COUNTS, 3, 16), COUNTS)
    assert hooks_of(body) == 0
