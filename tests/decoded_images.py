"""Decoded images for tests that work grey values out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaward_client.dicom.pixels import decode_image


def plane_of(path: Path, **how: Any) -> NDArray[np.float16]:
    """Decode without resizing, as one plane."""
    return np.asarray(decode_image(path, size=16, channels=1, **how)[0])


def one_window(center: float, width: float) -> dict[str, float]:
    """Return the elements of one window."""
    return {"WindowCenter": center, "WindowWidth": width}


def columns_of(*values: int, dtype: type = np.uint16) -> NDArray[Any]:
    """Fill 16 x 16 with the values in turn, one per column."""
    return np.tile(np.array(values, dtype=dtype), (16, 16 // len(values)))
