"""A network whose gradient has no rule, or that mixes patients, is refused before it is trained."""

import pytest
import torch
from torch import nn

from gradient_networks import MODELS
from metaward.errors import PrivacyError
from metaward.models.build import build_body
from metaward_client.privacy.patient_gradients import refuse_shared_statistics, require_rules


class Scaled(nn.Conv2d):
    """A convolution whose forward pass does otherwise."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(images)


class ScaledNorm(nn.GroupNorm):
    """Does something else than its parent."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(images)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Linear(4, 4), "Linear"),
        (nn.Conv2d(4, 4, 3, groups=2), "Conv2d"),
        (nn.Conv2d(4, 4, 3, dilation=2), "Conv2d"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "Conv2d"),
        (nn.Conv2d(4, 4, 3, padding="same"), "Conv2d"),
        (nn.Conv1d(4, 4, 3), "Conv1d"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
        (nn.LayerNorm(4), "LayerNorm"),
        (nn.PReLU(), "PReLU"),
        (Scaled(4, 4, 3), "Scaled"),
        (ScaledNorm(2, 4), "ScaledNorm"),
    ],
    ids=str,
)
def test_a_layer_without_a_rule_is_refused(layer: nn.Module, kind: str) -> None:
    with pytest.raises(PrivacyError, match=f"a {kind} whose gradient has no rule; expected 2d"):
        require_rules(nn.Sequential(nn.Conv2d(4, 4, 3), layer))


def test_layers_without_parameters_need_no_rule() -> None:
    parts = (nn.GroupNorm(2, 4, affine=False), nn.ReLU(), nn.MaxPool2d(2), nn.InstanceNorm2d(4))
    require_rules(nn.Sequential(*parts))


@pytest.mark.parametrize("name", MODELS)
def test_our_networks_have_rules_and_share_no_statistics(name: str) -> None:
    body = build_body(MODELS[name], seed=0)
    require_rules(body)
    refuse_shared_statistics(body)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8, track_running_stats=False, affine=False),
        nn.InstanceNorm2d(8, track_running_stats=True),
        nn.SyncBatchNorm(8),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_network_that_mixes_patients_is_refused(layer: nn.Module) -> None:
    with pytest.raises(PrivacyError, match="mix patients"):
        refuse_shared_statistics(nn.Sequential(nn.Conv2d(1, 8, 3), layer))


def test_a_network_with_a_buffer_is_refused() -> None:
    part = nn.Linear(2, 2)
    part.register_buffer("seen", torch.zeros(1))
    with pytest.raises(PrivacyError, match="buffers"):
        refuse_shared_statistics(nn.Sequential(part))
