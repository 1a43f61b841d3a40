"""A device has a name; what cannot be computed on it is refused in words."""

import pytest
import torch
from pydantic import BaseModel, ValidationError

from metaward.device import DeviceName, device_of, require_provable
from metaward.errors import ConfigError


class _Named(BaseModel):
    device: DeviceName


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_is_the_cpu_or_an_accelerator(name: str) -> None:
    assert _Named(device=name).device == name


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "", "meta"])
def test_nothing_else_is_a_device(name: str) -> None:
    with pytest.raises(ValidationError):
        _Named(device=name)


def test_the_cpu_is_always_there() -> None:
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("accelerators", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:7")]
)
def test_an_accelerator_that_torch_does_not_reach_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, accelerators: int, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: accelerators)
    with pytest.raises(ConfigError, match=f"device {name}, and {accelerators} accelerators"):
        device_of(name)


def test_an_accelerator_keeps_the_digits_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        assert device_of("cuda:1") == torch.device("cuda:1")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before, False


def test_patient_dp_sgd_stays_on_the_cpu_where_its_proof_holds() -> None:
    for mechanism, device in (("dp-sgd", "cpu"), ("block", "cuda"), ("none", "cuda:1")):
        require_provable(mechanism, device)
    for device in ("cuda", "cuda:0", "cuda:3"):
        with pytest.raises(ValueError, match="holds on a CPU alone"):
            require_provable("dp-sgd", device)
