"""Decode one frame of a DICOM file into a small square image."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID

from metaward_client.dicom.colour import palette_image, require_known, rgb_image, to_grey
from metaward_client.dicom.dicom_file import OpenedDicom, header_tags, open_dicom
from metaward_client.dicom.grey_levels import Window, grey_image
from metaward_client.dicom.header_reading import MAX_FRAME_BYTES, without_pixels
from metaward_client.dicom.nesting import bounded_nesting
from metaward_client.dicom.refusals import RefusalReason, RefusedImage
from metaward_client.dicom.silence import quiet_pydicom
from metaward_client.dicom.transfer_syntaxes import describe

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LONGEST_SIDE = 4096
"""Pixels of a side beyond which an image is shortened before it is padded."""

_TAGS = header_tags(
    [
        "SOPClassUID",
        "SOPInstanceUID",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "Columns",
        "Rows",
        "NumberOfFrames",
        "PhotometricInterpretation",
        "PixelRepresentation",
        "PlanarConfiguration",
        "SamplesPerPixel",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        "ModalityLUTSequence",
        "RescaleSlope",
        "RescaleIntercept",
        "VOILUTSequence",
        "VOILUTFunction",
        "WindowCenter",
        "WindowWidth",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
        "PixelPresentation",
    ]
    + [
        f"{kind}{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
    ]
)


def decode_image(
    path: str | os.PathLike[str],
    *,
    frame: int | None = None,
    size: int,
    channels: int,
    window: Window | None = None,
) -> NDArray[np.float16]:
    """Return one frame as (channels, size, size) in [0, 1].

    Grey images: modality transformation, window (or VOI LUT, or the 0.5 to 99.5 percentile range),
    MONOCHROME1 inverted once, padding black. Colour: palette and YBR to RGB. Then the image is
    padded with black to a square, which keeps its aspect ratio (pixels are taken as square), and
    resized with an antialiasing filter.

    Args:
        path: The file.
        frame: From 0; by default the middle one.
        size: Pixels, height and width of the result.
        channels: 1 (colour becomes luma) or 3 (grey is repeated).
        window: Centre and width for grey images, instead of what the file says.

    Raises:
        RefusedImage: The file cannot be decoded; the reason is all it tells.
    """
    try:
        with (
            quiet_pydicom(),
            bounded_nesting(),
            open_dicom(os.fspath(path), tags=_TAGS) as opened,
        ):
            image = _full_size(opened, frame, window)
        return _fit(image, size=size, channels=channels)
    except RefusedImage as refused:
        reason = refused.reason
    except MemoryError:
        reason = RefusalReason.TOO_LARGE
    except Exception:  # noqa: BLE001 (codecs raise anything; the reason is all we keep)
        reason = RefusalReason.UNDECODABLE_PIXELS
    raise RefusedImage(reason)  # outside the handler: the exception behind it is let go


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What a worker needs to decode one file."""

    path: str
    size: int
    channels: int
    window: Window | None


DecodeOutcome: TypeAlias = NDArray[np.float16] | RefusalReason


def decode_outcome(request: DecodeRequest) -> DecodeOutcome:
    """Decode one file, or say why not. Never raises because of a file."""
    try:
        return decode_image(
            request.path, size=request.size, channels=request.channels, window=request.window
        )
    except RefusedImage as refused:
        return refused.reason


def _full_size(
    opened: OpenedDicom, frame: int | None, window: Window | None
) -> NDArray[np.float32]:
    """Return (rows, columns) grey or (rows, columns, 3) RGB, in [0, 1]."""
    dataset = opened.dataset
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    index = n_frames // 2 if frame is None else frame
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    require_known(photometric)
    stored = _decode_frame(opened, index, n_frames)
    if photometric == "PALETTE COLOR":
        return palette_image(stored, dataset)
    if stored.ndim == 3:
        bits = int(dataset.BitsStored)
        return rgb_image(stored, bits_stored=bits, photometric=photometric)
    return grey_image(stored, dataset, frame=index, window=window)


def _decode_frame(opened: OpenedDicom, index: int, n_frames: int) -> NDArray[Any]:
    dataset, pixels = opened.dataset, opened.pixels
    if pixels is None:
        raise RefusedImage(without_pixels(dataset))
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise RefusedImage(RefusalReason.UNREADABLE_HEADER)
    if _frame_bytes(dataset) > MAX_FRAME_BYTES:
        raise RefusedImage(RefusalReason.TOO_LARGE)
    uid = UID(opened.transfer_syntax)
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise RefusedImage(RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX)
    options = as_pixel_options(dataset)
    options["transfer_syntax_uid"] = uid
    options["pixel_keyword"] = pixels.keyword
    if pixels.vr is not None:
        options["pixel_vr"] = pixels.vr
    preferred = describe(uid).plugin
    plugins = [preferred, ""] if preferred in decoder.available_plugins else [""]
    for plugin in plugins:
        opened.stream.seek(pixels.offset)
        try:
            return decoder.as_array(
                opened.stream,
                index=index if n_frames > 1 else 0,
                decoding_plugin=plugin,
                **options,
            )[0]
        except RuntimeError:  # this plugin failed; "" tries all the others
            if not plugin:
                raise
    raise AssertionError("the last plugin returns or raises")


def _frame_bytes(dataset: "Dataset") -> int:
    bits = int(dataset.BitsAllocated) * int(dataset.get("SamplesPerPixel") or 1)
    return int(dataset.Rows) * int(dataset.Columns) * bits // 8


def _fit(image: NDArray[np.float32], *, size: int, channels: int) -> NDArray[np.float16]:
    """Pad to a square, resize, and bring to the wanted number of channels."""
    if image.ndim == 3 and channels == 1:
        image = to_grey(image)
    planes = [image] if image.ndim == 2 else [image[..., channel] for channel in range(3)]
    resized = np.stack([_resize(_pad_to_square(plane), size) for plane in planes])
    result = np.broadcast_to(resized, (channels, size, size))
    return np.clip(np.nan_to_num(result, nan=0.0), 0.0, 1.0).astype(np.float16)


def _pad_to_square(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a square with the plane in its middle.

    A long side is shortened first, and the other with it: a row of 65,535 pixels is a file of 64
    kB, and would be a square of 16 GiB.
    """
    if max(plane.shape) > LONGEST_SIDE:
        plane = _reduced(plane, -(-max(plane.shape) // LONGEST_SIDE))
    rows, columns = plane.shape
    side = max(rows, columns)
    if rows == columns:
        return plane
    top, left = (side - rows) // 2, (side - columns) // 2
    return np.pad(plane, ((top, side - rows - top), (left, side - columns - left)))


def _reduced(plane: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return means over squares of ``factor`` pixels; of fewer at the edges."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(picture.reduce(factor), dtype=np.float32)


def _resize(plane: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize a square plane; the filter widens with the reduction, so nothing aliases."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    scaled = picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(scaled, dtype=np.float32)
