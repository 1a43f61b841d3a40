"""An image that nobody has labelled yet: what a model is asked about."""

import re
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metaward_client.dicom.header_reading import read_header
from metaward_client.dicom.pixels import DecodeRequest, decode_outcome
from metaward_client.dicom.refusals import RefusalReason

UID = re.compile(r"[0-9.]{1,64}")
"""What DICOM allows (PS3.5, 9.1). Anything else may be a formula, or a name, in a table."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """One image.

    Attributes:
        sop_instance_uid: Empty where the file has none of the form that DICOM allows.
        pixels: (channels, size, size) in [0, 1].
    """

    sop_instance_uid: str
    pixels: NDArray[np.float16]


InputOutcome: TypeAlias = InputImage | RefusalReason


def read_input(request: DecodeRequest) -> InputOutcome:
    """Read header and pixels of one file; what a site's images are refused for is refused here.

    Of several frames the middle one is taken, as everywhere.
    """
    header = read_header(request.path)
    if isinstance(header, RefusalReason):
        return header
    pixels = decode_outcome(request)
    if isinstance(pixels, RefusalReason):
        return pixels
    uid = header.sop_instance_uid
    return InputImage(uid if UID.fullmatch(uid) else "", pixels)
