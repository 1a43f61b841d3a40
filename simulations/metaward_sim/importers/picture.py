"""Read one PNG or JPEG picture as pixels that DICOM stores."""

import warnings
from pathlib import Path

import numpy as np

from metaward.errors import DataError
from metaward_sim.image_record import Pixels
from metaward_sim.importers.pixel_values import MAX_SIDE

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_picture(path: Path, *, where: str) -> Pixels:
    """Return a picture's pixels, upright as its EXIF orientation says.

    Grey and colour stay as they are; a palette becomes colour; transparency is dropped; 1 bit
    becomes 0 and 255; 16-bit grey stays 16 bits.

    Args:
        path: The file. It never appears in a message.
        where: What stands in messages in its place: a row number or a position.

    Raises:
        DataError: Not a picture, damaged, too large, or of a kind that has no rule.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as opened:
                _check_size(opened.width, opened.height, where)
                picture = ImageOps.exif_transpose(opened)
                return _pixels(picture, where)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _unusable("a picture of more than 89 million pixels", where) from None
    except FileNotFoundError:
        raise _unusable("no such picture", where) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError):
        # Pillow raises all of these for damaged files; its texts quote paths.
        raise _unusable("a picture that can't be read", where) from None


def _pixels(picture: "Image.Image", where: str) -> Pixels:  # type: ignore[name-defined]  # noqa: F821
    mode = picture.mode
    if mode in ("L", "RGB"):
        return np.asarray(picture, dtype=np.uint8)
    if mode in ("1", "LA"):
        return np.asarray(picture.convert("L"), dtype=np.uint8)
    if mode in ("P", "RGBA"):
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(picture)
        if values.min() >= 0 and values.max() <= 65_535:
            return values.astype(np.uint16)
    raise _unusable(f"a picture of mode {mode}", where)


def _check_size(width: int, height: int, where: str) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise _unusable(f"a picture of {height} x {width} pixels", where)


def _unusable(found: str, where: str) -> DataError:
    return DataError(
        found,
        expected="a PNG or JPEG picture, grey or colour",
        where=where,
        next_step="Convert, fetch again or remove that picture, then run the command again.",
    )
