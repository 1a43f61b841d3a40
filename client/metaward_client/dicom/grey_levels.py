"""From stored pixel values to grey values in [0, 1]: modality, padding, VOI, inversion.

The order is the standard's (PS3.3 C.11): modality transformation, then values of interest, then
presentation. Two of pydicom's own functions are left aside: ``apply_windowing`` gives a range that
follows BitsStored, so signed images come out negative, and ``apply_presentation_lut`` leaves
MONOCHROME1 as it is when PresentationLUTShape is missing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
"""Grey values that become black and white where the file has no window: a few hot pixels, or a
bright marker, then do not darken the rest."""

Window = tuple[float, float]
"""Centre and width, in modality units (HU for CT)."""


def grey_image(
    stored: NDArray[Any], dataset: "Dataset", *, frame: int, window: Window | None
) -> NDArray[np.float32]:
    """Return one frame as grey values, black 0 and white 1.

    Args:
        stored: (rows, columns) as decoded, integers or floats.
        dataset: Its header elements.
        frame: Index of the frame, for functional groups.
        window: Used instead of what the file says.
    """
    padding = _padding_mask(stored, dataset)
    values = _modality(stored, dataset, frame)
    grey = _values_of_interest(values, padding, dataset, frame, window)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = np.subtract(1.0, grey, dtype=np.float32)
    if padding is not None:
        grey[padding] = 0.0  # outside the image: black, however the rest is presented
    return grey


def _padding_mask(stored: NDArray[Any], dataset: "Dataset") -> NDArray[np.bool_] | None:
    """Return where there is padding; None where there is none, or nothing else."""
    value = dataset.get("PixelPaddingValue")
    if value is None or stored.dtype.kind not in "iu":
        return None
    # Files give -2000 as 63536 and the other way round: compare in 16 bits, as the image is signed.
    # Not in 8: -2000 would wrap around to 48, which is a grey value.
    words = np.result_type(stored.dtype, f"{stored.dtype.kind}2")
    low = np.array(int(value), dtype=np.int64).astype(words)
    limit = dataset.get("PixelPaddingRangeLimit")
    high = low if limit is None else np.array(int(limit), dtype=np.int64).astype(words)
    mask = (stored >= min(low, high)) & (stored <= max(low, high))
    return mask if mask.any() and not mask.all() else None


def _modality(stored: NDArray[Any], dataset: "Dataset", frame: int) -> NDArray[Any]:
    table = _lookup_table(dataset, "ModalityLUTSequence")
    if table is not None and stored.dtype.kind in "iu":
        return table.apply(stored)
    source = _functional_group(dataset, "PixelValueTransformationSequence", frame) or dataset
    slope = _number(source.get("RescaleSlope"))
    intercept = _number(source.get("RescaleIntercept"))
    if slope is None or intercept is None or slope == 0 or (slope, intercept) == (1.0, 0.0):
        return stored
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _values_of_interest(
    values: NDArray[Any],
    padding: NDArray[np.bool_] | None,
    dataset: "Dataset",
    frame: int,
    window: Window | None,
) -> NDArray[np.float32]:
    if window is not None:
        centre, width = window
        return _stretch(values, centre - width / 2, centre + width / 2)
    table = _lookup_table(dataset, "VOILUTSequence")
    if table is not None:
        return _stretch(table.apply(values), 0, 2**table.bits - 1)
    source = _functional_group(dataset, "FrameVOILUTSequence", frame) or dataset
    centre_, width_ = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    if centre_ is not None and width_ is not None:
        if function == "SIGMOID" and width_ > 0:  # C.11.2.1.3.1
            exponent = np.clip(-4 * (values.astype(np.float32) - centre_) / width_, -80, 80)
            return np.asarray(1 / (1 + np.exp(exponent)), dtype=np.float32)
        if function == "LINEAR_EXACT" and width_ > 0:  # C.11.2.1.3.2
            return _stretch(values, centre_ - width_ / 2, centre_ + width_ / 2)
        if function == "LINEAR" and width_ >= 1:  # C.11.2.1.2.1
            middle, half = centre_ - 0.5, (width_ - 1) / 2
            return _stretch(values, middle - half, middle + half)
    shown = values if padding is None else values[~padding]
    return _stretch(values, *_percentile_range(shown))


def _stretch(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Map low..high to 0..1 and clip; of no width, it is a threshold above which all is white.

    A constant image becomes black.
    """
    if not high > low:
        return np.asarray(values > high, dtype=np.float32)
    grey = values.astype(np.float32)
    grey -= np.float32(low)
    grey /= np.float32(high - low)
    return np.clip(grey, 0.0, 1.0, out=grey)


def _percentile_range(values: NDArray[Any]) -> tuple[float, float]:
    finite = values if values.dtype.kind in "iu" else values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(finite, [LOW_PERCENTILE, HIGH_PERCENTILE])
    if high > low:
        return float(low), float(high)
    return float(finite.min()), float(finite.max())  # a sparse mask


@dataclass(frozen=True)
class _LookupTable:
    """A modality or VOI LUT (PS3.3 C.11.1.1 and C.11.2.1.1).

    Attributes:
        first: Value of the first entry; lower ones take that entry, higher ones the last.
        entries: What values become; unsigned.
        bits: Of an entry.
    """

    first: int
    entries: NDArray[Any]
    bits: int

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the entries that values lead to; rescaled ones lead to the nearest."""
        first = self.first
        if values.dtype.kind != "u" and first >= 2**15:  # written as unsigned, meant as signed
            first -= 2**16
        rows = np.clip(np.rint(values).astype(np.int64) - first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[rows])


def _lookup_table(dataset: "Dataset", keyword: str) -> _LookupTable | None:
    """Return the first LUT of a sequence; None where there is none or it is empty."""
    sequence = dataset.get(keyword)
    if not sequence:
        return None
    descriptor, data = sequence[0].get("LUTDescriptor"), sequence[0].get("LUTData")
    if descriptor is None or data is None or len(descriptor) != 3:
        return None
    # The number is unsigned (C.11.1.1.1) even where the element is signed as the image is.
    n_entries = int(descriptor[0]) % 2**16 or 2**16
    first, bits = int(descriptor[1]), int(descriptor[2])
    if isinstance(data, bytes):
        little = dataset.original_encoding[1]
        one_byte = len(data) < 2 * n_entries
        kind = np.dtype("u1") if one_byte else np.dtype("<u2" if little else ">u2")
        entries = np.frombuffer(data, dtype=kind)[:n_entries]
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.uint16))[:n_entries]
    if entries.size == 0 or not 1 <= bits <= 16:
        return None
    return _LookupTable(first, entries, bits)


def _functional_group(dataset: "Dataset", keyword: str, frame: int) -> "Dataset | None":
    """Return a frame's functional group: its own, or the one that all frames share."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    candidates = [per_frame[frame]] if per_frame and frame < len(per_frame) else []
    candidates += [shared[0]] if shared else []
    for candidate in candidates:
        if group := candidate.get(keyword):
            item: Dataset = group[0]
            return item
    return None


def _first(value: object) -> float | None:
    """Return the first of one or several numbers."""
    several = isinstance(value, list | tuple) or hasattr(value, "append")
    if several:
        value = value[0] if len(value) else None  # type: ignore[index,arg-type]
    return _number(value)


def _number(value: object) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)  # type: ignore[arg-type]  # DS, IS, US and floats convert; else ValueError
    return number if np.isfinite(number) else None
