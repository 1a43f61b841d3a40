"""The device that a site computes on: the CPU, or an accelerator that torch reaches by CUDA."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metaward.errors import ConfigError
from metaward.patterns import DEVICE

if TYPE_CHECKING:
    import torch

ON_CPU = "cpu"
DeviceName = Annotated[str, Field(pattern=DEVICE)]
"""`cpu`, `cuda` or `cuda:1`."""


def device_of(name: str) -> "torch.device":
    """Return the device of a name, ready to be computed on.

    On an accelerator convolutions keep the digits of float32. Torch's default there, TF32, has 10
    bits for a fraction; inner loops raise what that rounds to tens of per cent of a meta-gradient
    (docs/algorithms.md).

    Raises:
        ConfigError: Torch reaches no such accelerator.
    """
    import torch

    device = torch.device(name)
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise ConfigError(
                f"device {name}, and {found} accelerators that torch reaches",
                expected="an accelerator, its driver, and a torch that is built for it",
                where="device",
                next_step="Set `device: cpu`, or install a torch for CUDA.",
            )
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return device


def require_provable(mechanism: str, device: str) -> None:
    """Refuse patient DP-SGD on an accelerator.

    Its proof needs that what one patient adds does not depend on who else is in the pass, to the
    last bit. On a CPU that holds and is tested; on an H200 gradients moved (docs/threat-model.md).

    Raises:
        ValueError: The mechanism is dp-sgd, and the device is not the CPU.
    """
    if mechanism == "dp-sgd" and device != ON_CPU:
        raise ValueError(
            f"privacy.mechanism dp-sgd with device {device}: its proof holds on a CPU alone; set "
            "device to cpu, or take mechanism block, which holds on both"
        )
