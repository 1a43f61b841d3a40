"""Pixels as the bytes of a Pixel Data element, in each lossless transfer syntax."""

import sys

import numpy as np
from numpy.typing import NDArray

from metaward_sim.image_record import Pixels
from metaward_sim.scanner_style import TRANSFER_SYNTAX_UID, ScannerStyle

MIN_SIDE_JPEG_2000 = 32
"""Pixels; the encoder halves an image five times and refuses smaller ones."""

_PLUGIN = {"rle": "pylibjpeg", "jpeg-ls": "pyjpegls", "jpeg-2000": "pylibjpeg"}
"""The fastest encoder of each syntax (pydicom's own RLE is ten times slower)."""


def native_bytes(pixels: Pixels, style: ScannerStyle) -> bytes:
    """Return uncompressed little-endian pixel bytes, padded to an even length.

    Raises:
        ValueError: The pixels do not fit the style: dtype, colour, or values of more bits than
            ``style.bits_stored``.
    """
    samples = _checked(pixels, style)
    raw = samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes()
    return raw + b"\0" * (len(raw) % 2)


def compressed_frame(pixels: Pixels, style: ScannerStyle) -> bytes:
    """Return the one compressed frame of an encapsulated style.

    Raises:
        ValueError: As `native_bytes`; or a JPEG 2000 image of less than 32 rows or columns.
    """
    from pydicom.pixels.encoders.base import get_encoder

    if style.transfer_syntax == "jpeg-2000" and min(pixels.shape[:2]) < MIN_SIDE_JPEG_2000:
        raise ValueError(f"JPEG 2000 needs {MIN_SIDE_JPEG_2000} rows and columns or more")
    samples = np.ascontiguousarray(_checked(pixels, style))
    if sys.byteorder == "big":  # pragma: no cover (the encoders want little endian)
        samples = samples.astype(samples.dtype.newbyteorder("<"))
    return get_encoder(TRANSFER_SYNTAX_UID[style.transfer_syntax]).encode(
        samples,
        encoding_plugin=_PLUGIN[style.transfer_syntax],
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        number_of_frames=1,
        samples_per_pixel=3 if style.is_colour else 1,
        bits_allocated=style.bits_allocated,
        # RLE codes whole bytes: its encoder wants the bytes of the unused bits as well.
        bits_stored=style.bits_allocated if style.transfer_syntax == "rle" else style.bits_stored,
        pixel_representation=int(style.signed),
        photometric_interpretation=style.stored_photometric,
        planar_configuration=0,
    )


def _checked(pixels: Pixels, style: ScannerStyle) -> NDArray[np.generic]:
    """Return the pixels in the dtype that the file holds, values unchanged."""
    if (pixels.ndim == 3) != style.is_colour:
        raise ValueError(f"{pixels.ndim}-dimensional pixels in a {style.photometric} style")
    if (pixels.dtype == np.int16) != style.signed:
        raise ValueError(f"{pixels.dtype} pixels, but the style says signed={style.signed}")
    low, high = (0, 2**style.bits_stored - 1)
    if style.signed:
        low, high = -(2 ** (style.bits_stored - 1)), 2 ** (style.bits_stored - 1) - 1
    full_range = np.iinfo(pixels.dtype)
    exceeds = low > full_range.min or high < full_range.max
    if exceeds and (int(pixels.min()) < low or int(pixels.max()) > high):
        raise ValueError(f"pixel values need more than {style.bits_stored} bits")
    if style.signed:
        return pixels.astype(np.int16 if style.bits_allocated == 16 else np.int8, copy=False)
    return pixels.astype(np.uint16 if style.bits_allocated == 16 else np.uint8, copy=False)
