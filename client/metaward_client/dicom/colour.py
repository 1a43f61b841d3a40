"""From stored colour pixels to RGB in [0, 1]."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metaward_client.dicom.refusals import RefusalReason, RefusedImage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_COLOURS = ("Red", "Green", "Blue")

_READ_AS_RGB = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_READ = _READ_AS_RGB | {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"}

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""


def require_known(photometric: str) -> None:
    """Refuse what is not read, before pixels are decoded; no value is the decoder's to judge.

    Raises:
        RefusedImage: The photometric interpretation is CMYK, HSV, YBR_PARTIAL_…
    """
    if photometric and photometric not in _READ:
        raise RefusedImage(RefusalReason.UNSUPPORTED_PHOTOMETRIC)


def rgb_image(decoded: NDArray[Any], *, bits_stored: int, photometric: str) -> NDArray[np.float32]:
    """Scale decoded RGB to [0, 1] by its bit depth.

    Args:
        decoded: (rows, columns, 3) unsigned; pydicom has turned YBR into RGB.
        bits_stored: Bits in use.
        photometric: As in the file.

    Raises:
        RefusedImage: The colours are in a space that pydicom hands on unconverted.
    """
    if decoded.shape[-1] != 3 or decoded.dtype.kind != "u" or photometric not in _READ_AS_RGB:
        raise RefusedImage(RefusalReason.UNSUPPORTED_PHOTOMETRIC)
    scaled = decoded.astype(np.float32) / np.float32(2**bits_stored - 1)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def palette_image(indices: NDArray[Any], dataset: "Dataset") -> NDArray[np.float32]:
    """Expand palette colour to (rows, columns, 3) RGB in [0, 1].

    pydicom's ``apply_color_lut`` holds the index in the palette's own type, so a palette with
    8-bit colours and more than 256 entries wraps around; it is used for segmented palettes only.
    """
    if "RedPaletteColorLookupTableData" in dataset:
        tables = [_palette_table(dataset, colour) for colour in _COLOURS]
        first = int(dataset.RedPaletteColorLookupTableDescriptor[1])
        entries = np.stack(tables, axis=-1).astype(np.float32)  # (entries, 3)
        # Eight significant bits in sixteen: some writers put them high, some low. Of all colours
        # together: one may be dark throughout.
        entries /= np.float32(255 if entries.max(initial=0) <= 255 else 65535)
        return entries[np.clip(indices.astype(np.int64) - first, 0, len(entries) - 1)]
    from pydicom.pixels.processing import apply_color_lut

    expanded = apply_color_lut(indices, dataset)[..., :3]
    return expanded.astype(np.float32) / np.float32(np.iinfo(expanded.dtype).max)


def _palette_table(dataset: "Dataset", colour: str) -> NDArray[Any]:
    """Return the entries of one colour as they are stored, in bytes or words."""
    descriptor = dataset[f"{colour}PaletteColorLookupTableDescriptor"].value
    data = dataset[f"{colour}PaletteColorLookupTableData"].value
    n_entries = int(descriptor[0]) or 2**16
    if len(data) >= 2 * n_entries:
        little = dataset.original_encoding[1]
        return np.frombuffer(data[: 2 * n_entries], dtype="<u2" if little else ">u2")
    table = np.frombuffer(data[:n_entries], dtype=np.uint8)
    if len(table) < n_entries:
        raise RefusedImage(RefusalReason.UNDECODABLE_PIXELS)
    return table


def to_grey(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (rows, columns) luma of (rows, columns, 3) RGB."""
    return np.asarray(rgb @ LUMA, dtype=np.float32)
