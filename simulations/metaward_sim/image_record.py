"""One image on its way into a DICOM hospital: the pixels, and what is known about them."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16]
"""(height, width) uint8, uint16 or int16; or (height, width, 3) uint8, red, green, blue."""

PIXEL_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int16))


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """An image with its patient and its label.

    Attributes:
        pixels: The stored values, exactly as they go into the file and as a reader gets them
            back before any rescale, window or inversion. (height, width) uint8, uint16 or int16,
            or (height, width, 3) uint8.
        patient: The patient's id, a pseudonym. It is written as it is given when DICOM can hold
            it; see :func:`metaward_sim.dicom_writer.patient_id_of`.
        label: The label's name; any text that is not blank. Line breaks and other white space
            are written as single blanks.
        study: Tells the studies of one patient apart. Images of one patient and one study share
            a Study Instance UID.
    """

    pixels: Pixels
    patient: str
    label: str
    study: str = ""

    def __post_init__(self) -> None:
        colour = self.pixels.ndim == 3 and self.pixels.shape[2] == 3
        assert self.pixels.dtype in PIXEL_TYPES
        assert colour or self.pixels.ndim == 2
        assert not colour or self.pixels.dtype == np.uint8
        assert self.pixels.size
        assert self.patient
        assert self.label.strip()

    @property
    def is_colour(self) -> bool:
        """True for (height, width, 3)."""
        return self.pixels.ndim == 3
