"""Does the gate refuse a network in which one patient's images change another's features?"""

from collections.abc import Callable

import torch

from metaward.errors import PrivacyError
from metaward_client.privacy_audit.findings import Finding, verdict_of

Gate = Callable[[torch.nn.Module], None]


def mixing_networks() -> dict[str, torch.nn.Module]:
    """Return networks that must be refused, by what is wrong with them."""
    frozen = torch.nn.BatchNorm2d(4, affine=False)
    without_memory = torch.nn.BatchNorm2d(4, track_running_stats=False)
    buffer = torch.nn.Conv2d(1, 4, 3)
    buffer.register_buffer("memory", torch.zeros(4))
    networks: dict[str, torch.nn.Module] = {
        "batch norm": torch.nn.BatchNorm2d(4),
        "batch norm, frozen affine": frozen,
        "batch norm, no running statistics": without_memory,
        "instance norm with running statistics": torch.nn.InstanceNorm2d(
            4, track_running_stats=True
        ),
    }
    deep = {
        name: torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), layer)
        for name, layer in networks.items()
    }
    return {**deep, "a buffer": buffer}


def let_through(gate: Gate) -> list[str]:
    """Return the names of the networks that the gate does not refuse."""
    return [name for name, network in mixing_networks().items() if not _refuses(gate, network)]


def _refuses(gate: Gate, network: torch.nn.Module) -> bool:
    try:
        gate(network)
    except PrivacyError:
        return True
    return False


def shared_statistics_finding(through: list[str]) -> Finding:
    """Say whether such networks are refused."""
    return Finding(
        check="networks that mix patients",
        question="Is a network refused in which one patient's images change another's result?",
        done="Networks with batch statistics, frozen or not, and with hidden state were offered.",
        seen="All were refused." if not through else f"Not refused: {', '.join(through)}.",
        verdict=verdict_of(not through),
        figures={"let_through": float(len(through))},
    )
