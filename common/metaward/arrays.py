"""Named parameters in two forms: numpy arrays (wire, disk, server) and tensors (learners)."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Arrays: TypeAlias = dict[str, NDArray[np.float32]]
"""Leaf name -> float32 array. The portable form: what is sent, stored and aggregated."""

Tensors: TypeAlias = dict[str, torch.Tensor]
"""Leaf name -> float32 tensor. The form that learners compute with."""


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    """Copy tensors into contiguous float32 arrays."""
    return {
        name: np.array(tensor.detach().cpu().numpy(), dtype=np.float32, order="C")
        for name, tensor in tensors.items()
    }


def to_tensors(
    arrays: Mapping[str, NDArray[np.float32]], device: torch.device | None = None
) -> Tensors:
    """Copy arrays into float32 tensors, on the CPU or another device."""
    return {
        name: torch.tensor(array, dtype=torch.float32, device=device)
        for name, array in arrays.items()
    }


def l2_norm(arrays: Mapping[str, NDArray[np.float32]]) -> float:
    """Return the L2 norm over all leaves together, accumulated in float64."""
    squares = [float(np.sum(np.square(array, dtype=np.float64))) for array in arrays.values()]
    return float(np.sqrt(sum(squares)))
