"""What every body promises: sizes, no statistics over patients, weights from the seed alone."""

import itertools
from typing import Literal

import pytest
import torch
from torch import nn

from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body

CONV4 = ModelSettings(filters=8, groups=2)
RESNET = ModelSettings(name="resnet", filters=8, groups=2)
OF_CONV4: tuple[dict[str, str | int], ...] = (
    {"downsample": "pool"},
    {"downsampled_blocks": 2},
    {"downsampled_blocks": 2, "downsample": "pool"},
    {"downsampled_blocks": 3, "downsample": "pool"},
)
OF_BOTH: tuple[dict[str, str | int], ...] = ({}, {"channels": 3})
EVERY_BODY = [
    pytest.param(settings.model_copy(update=changes), id=f"{settings.name}-{changes}")
    for settings, changes in [
        *itertools.product((CONV4,), OF_CONV4),
        *itertools.product((CONV4, RESNET), OF_BOTH),
    ]
]


def images(settings: ModelSettings, n: int = 3) -> torch.Tensor:
    shape = (n, settings.channels, settings.image_size, settings.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def norm_sides(body: Body, settings: ModelSettings) -> list[int]:
    """Height of the map that each norm sees, one after the other."""
    sides: list[int] = []
    for module in body.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(lambda _module, args, _out: sides.append(args[0].shape[2]))
    body(images(settings))
    return sides


@pytest.mark.parametrize(
    ("downsample", "blocks", "size", "side"),
    [
        # pool: halved and rounded down; stride: halved and rounded up.
        ("pool", 4, 28, 1),
        ("pool", 4, 32, 2),
        ("pool", 4, 64, 4),
        ("pool", 3, 28, 3),
        ("pool", 2, 30, 7),
        ("stride", 4, 28, 2),
        ("stride", 4, 32, 2),
        ("stride", 4, 64, 4),
        ("stride", 3, 28, 4),
        ("stride", 2, 30, 8),
    ],
)
def test_conv4_gives_as_many_features_as_it_says(
    downsample: Literal["pool", "stride"], blocks: int, size: int, side: int
) -> None:
    settings = ModelSettings(
        filters=8, groups=2, image_size=size, downsample=downsample, downsampled_blocks=blocks
    )
    body = build_body(settings, seed=0)
    assert body.features == 8 * side * side
    assert body(images(settings)).shape == (3, body.features)


@pytest.mark.parametrize(
    ("downsample", "seen"),
    [("pool", [29, 14, 7, 7]), ("stride", [15, 8, 8, 8])],  # by the norms, in front of a pool
)
def test_the_first_blocks_of_conv4_are_those_that_halve(
    downsample: Literal["pool", "stride"], seen: list[int]
) -> None:
    settings = CONV4.model_copy(
        update={"image_size": 29, "downsample": downsample, "downsampled_blocks": 2}
    )
    body = build_body(settings, seed=0)
    assert norm_sides(body, settings) == seen


@pytest.mark.parametrize("size", [16, 28, 33, 64])
def test_resnet_gives_features_that_do_not_depend_on_the_size_of_the_image(size: int) -> None:
    settings = RESNET.model_copy(update={"image_size": size})
    body = build_body(settings, seed=0)
    assert body.features == 32
    assert body(images(settings)).shape == (3, 32)


@pytest.mark.parametrize("settings", EVERY_BODY)
@pytest.mark.parametrize("size", [16, 28, 33, 64])
def test_the_settings_know_the_map_that_the_last_norm_sees(
    settings: ModelSettings, size: int
) -> None:
    settings = settings.model_copy(update={"image_size": size})
    assert min(norm_sides(build_body(settings, seed=0), settings)) == settings.last_norm_side()


@pytest.mark.parametrize("settings", EVERY_BODY)
@pytest.mark.parametrize("size", [16, 28, 33, 64])
def test_features_are_made_from_a_map_of_the_size_that_a_body_says(
    settings: ModelSettings, size: int
) -> None:
    settings = settings.model_copy(update={"image_size": size})
    body = build_body(settings, seed=0)
    other = build_body(settings, seed=1).initial_parameters()
    maps = body.maps_with(other, images(settings))
    assert maps.shape == (3, body.map_channels, body.map_side, body.map_side)
    whole = {"conv4": maps.flatten(1), "resnet": maps.mean(dim=(2, 3))}
    assert torch.equal(whole[settings.name], body.apply_with(other, images(settings)))


@pytest.mark.parametrize("settings", EVERY_BODY)
def test_no_body_keeps_statistics_of_patients(settings: ModelSettings) -> None:
    body = build_body(settings, seed=0)
    assert list(body.buffers()) == []
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in body.modules())
    before = body.initial_parameters()
    body.train()
    body(images(settings))
    assert all(torch.equal(leaf, before[name]) for name, leaf in body.named_parameters())


@pytest.mark.parametrize("settings", EVERY_BODY)
def test_every_norm_of_a_body_has_as_many_groups_as_the_settings_say(
    settings: ModelSettings,
) -> None:
    norms = [m for m in build_body(settings, seed=0).modules() if isinstance(m, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {settings.groups}


@pytest.mark.parametrize("settings", EVERY_BODY)
def test_an_image_has_the_same_features_whatever_is_beside_it(settings: ModelSettings) -> None:
    body, batch = build_body(settings, seed=0).double(), images(settings, n=4).double()
    with torch.no_grad():
        together = body(batch)
        alone = torch.cat([body(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("settings", EVERY_BODY)
def test_every_parameter_has_a_part_in_the_features(settings: ModelSettings) -> None:
    """With two threads: the small ResNet in channels_last wrote outside its memory here."""
    body, before = build_body(settings, seed=0), torch.get_num_threads()
    torch.set_num_threads(2)
    body(images(settings)).square().sum().backward()
    torch.set_num_threads(before)
    for name, leaf in body.named_parameters():
        assert leaf.grad is not None, name
        assert leaf.grad.abs().max() > 0, name


def weights(body: Body) -> list[bytes]:
    return [leaf.numpy().tobytes() for leaf in body.initial_parameters().values()]


@pytest.mark.parametrize("settings", EVERY_BODY)
def test_initial_weights_depend_on_the_seed_alone(settings: ModelSettings) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = weights(build_body(settings, seed=7))
        torch.manual_seed(2)
        assert weights(build_body(settings, seed=7)) == one
    assert weights(build_body(settings, seed=8)) != one


def test_building_a_body_leaves_the_global_random_state_as_it_was() -> None:
    before = torch.random.get_rng_state()
    build_body(CONV4, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_initial_parameters_are_a_copy() -> None:
    body = build_body(CONV4, seed=3)
    taken = body.initial_parameters()
    before = weights(body)
    for leaf in taken.values():
        assert not leaf.requires_grad
        leaf.zero_()
    assert weights(body) == before


@pytest.mark.parametrize("settings", [CONV4, RESNET], ids=lambda settings: settings.name)
def test_apply_with_uses_the_parameters_given_and_changes_none(settings: ModelSettings) -> None:
    body, other, batch = build_body(settings, 1), build_body(settings, 2), images(settings)
    before = weights(body)
    with torch.no_grad():
        assert torch.equal(body.apply_with(other.initial_parameters(), batch), other(batch))
    assert weights(body) == before


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_a_conv4_computes_in_channels_last_also_from_grey_images(
    channels: int, downsample: str
) -> None:
    model = ModelSettings(channels=channels, image_size=32, filters=8, downsample=downsample)
    body = build_body(model, 0)
    layouts = []
    for norm in body.norms:
        norm.register_forward_hook(lambda _, __, out: layouts.append(out.stride()[1]))
    body(torch.randn(2, channels, 32, 32))
    assert layouts == [1] * 4
