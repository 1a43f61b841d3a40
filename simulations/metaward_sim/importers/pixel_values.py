"""Turn an array of any common kind into pixels that DICOM stores, by one written rule.

======================  =======================================================================
what comes              what is stored
======================  =======================================================================
uint8, uint16, int16    the values as they are (colour: uint8 only)
bool                    0 and 255, 8 bits
float in [0, 1], grey   0 to 65535, 16 bits, nearest
float in [0, 1], colour 0 to 255, 8 bits, nearest
anything else           refused: guessing a scale would change the images in silence
======================  =======================================================================
"""

import numpy as np
from numpy.typing import NDArray

from metaward.errors import DataError
from metaward_sim.image_record import PIXEL_TYPES, Pixels

MAX_SIDE = 65_535
"""Rows and Columns are 16-bit numbers in DICOM."""


def check_image_type(dtype: np.dtype[np.generic], *, colour: bool, where: str) -> None:
    """Refuse a kind of number that has no rule.

    Raises:
        DataError: See the table of this module.
    """
    native = dtype.newbyteorder("=")
    if dtype.kind in "fb" or (native == np.uint8 if colour else native in PIXEL_TYPES):
        return
    kind = "colour images" if colour else "images"
    raise DataError(
        f"{kind} of type {dtype}",
        expected="uint8 or float in [0, 1]" + ("" if colour else ", uint16 or int16"),
        where=where,
        next_step="Convert the array, for example with images.astype('uint8'), and save it again.",
    )


def to_pixels(image: NDArray[np.generic], *, where: str) -> Pixels:
    """Return stored values for one image; see the table of this module.

    Args:
        image: (height, width) or (height, width, 3), of a type that `check_image_type` passed.
        where: The image's row or place, for the message.

    Raises:
        DataError: A float image with values outside [0, 1], or not finite.
    """
    colour = image.ndim == 3
    if image.dtype.kind == "b":
        return image.astype(np.uint8) * np.uint8(255)
    if image.dtype.kind != "f":
        return image.astype(image.dtype.newbyteorder("="), copy=False)
    values = image.astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
        raise DataError(
            "a float image with values outside [0, 1], or not numbers",
            expected="float images in [0, 1], or uint8, uint16 or int16",
            where=where,
            next_step="Scale the images to [0, 1], or save them as uint8 or uint16.",
        )
    if colour:
        return np.rint(values * 255).astype(np.uint8)
    return np.rint(values * 65_535).astype(np.uint16)
