"""How one scanner writes its files: object class, transfer syntax, bits, grey scale, folders."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Modality: TypeAlias = Literal["CR", "CT", "MR", "US", "XC", "OT"]
TransferSyntax: TypeAlias = Literal["explicit-le", "implicit-le", "rle", "jpeg-ls", "jpeg-2000"]
Photometric: TypeAlias = Literal["MONOCHROME1", "MONOCHROME2", "RGB"]
Nesting: TypeAlias = Literal["media", "uid", "hashed"]

TRANSFER_SYNTAX_UID: dict[str, str] = {
    "implicit-le": "1.2.840.10008.1.2",
    "explicit-le": "1.2.840.10008.1.2.1",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
    "rle": "1.2.840.10008.1.2.5",
}
"""Lossless, all of them: what is read back equals what was given. UIDs from PS3.6, table A-1."""


@dataclass(frozen=True)
class ObjectClass:
    """What DICOM lets one kind of image object hold (PS3.3, section A).

    Attributes:
        uid: SOP Class UID.
        photometric: Permitted photometric interpretations.
        bits_stored: Permitted range of Bits Stored, both ends included.
        min_bits_allocated: 16 where the object class wants 16 bits for any number of stored bits.
        signed: True where two's complement pixels are permitted.
    """

    uid: str
    photometric: tuple[Photometric, ...]
    bits_stored: tuple[int, int]
    min_bits_allocated: int = 8
    signed: bool = True


SECONDARY_CAPTURE = ObjectClass(
    uid="1.2.840.10008.5.1.4.1.1.7",
    photometric=("MONOCHROME1", "MONOCHROME2", "RGB"),
    bits_stored=(1, 16),
)
OBJECT_CLASSES: dict[str, ObjectClass] = {
    "CR": ObjectClass("1.2.840.10008.5.1.4.1.1.1", ("MONOCHROME1", "MONOCHROME2"), (1, 16)),
    "CT": ObjectClass("1.2.840.10008.5.1.4.1.1.2", ("MONOCHROME1", "MONOCHROME2"), (12, 16), 16),
    "MR": ObjectClass("1.2.840.10008.5.1.4.1.1.4", ("MONOCHROME1", "MONOCHROME2"), (8, 16), 16),
    "US": ObjectClass("1.2.840.10008.5.1.4.1.1.6.1", ("MONOCHROME2", "RGB"), (8, 8), signed=False),
    "XC": ObjectClass(
        "1.2.840.10008.5.1.4.1.1.77.1.4", ("MONOCHROME2", "RGB"), (8, 8), signed=False
    ),
    "OT": SECONDARY_CAPTURE,
}
"""Modality -> the object class that its scanners write. Dermoscopy is XC, VL photographic."""


@dataclass(frozen=True)
class ScannerStyle:
    """What all files of one scanner have in common.

    Attributes:
        modality: Modality (0008,0060). Decides the object class, unless ``secondary_capture``.
        secondary_capture: Write Secondary Capture Image Storage under that modality: for pictures
            that come without the geometry and acquisition facts that a scanner's own object
            class demands.
        manufacturer: Manufacturer (0008,0070); may be empty.
        transfer_syntax: How data set and pixels are encoded.
        photometric: Photometric Interpretation. Inverting for MONOCHROME1 is up to the caller:
            the pixels are stored as given.
        bits_stored: Significant bits of a pixel, 1 to 16.
        signed: Two's complement pixels (int16).
        rescale: ``(slope, intercept)`` from stored values to the modality's unit (CT: HU).
        window: ``(centre, width)`` in the modality's unit, or None.
        nesting: ``media``: patient/study folders and names without extension, as a CD holds
            them. ``uid``: study/series/image named by UID. ``hashed``: two levels of
            hexadecimal folders, as an archive's store.
    """

    modality: Modality
    secondary_capture: bool = False
    manufacturer: str = ""
    transfer_syntax: TransferSyntax = "explicit-le"
    photometric: Photometric = "MONOCHROME2"
    bits_stored: int = 8
    signed: bool = False
    rescale: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    nesting: Nesting = "media"

    def __post_init__(self) -> None:
        rules = self.object_class
        low, high = rules.bits_stored
        if self.photometric not in rules.photometric:
            raise ValueError(f"{self.modality} images are never {self.photometric}")
        if not low <= self.bits_stored <= high:
            raise ValueError(f"{self.modality} images store {low} to {high} bits")
        if self.signed and not rules.signed:
            raise ValueError(f"{self.modality} images are never signed")
        if self.is_colour and (self.bits_stored != 8 or self.signed):
            raise ValueError("colour images store 8 unsigned bits")
        if self.is_colour and (self.rescale or self.window):
            raise ValueError("colour images have neither rescale nor window")
        if self.modality == "CT" and self.rescale is None and not self.secondary_capture:
            raise ValueError("CT images need a rescale slope and intercept")
        if self.window is not None and self.window[1] < 1:
            raise ValueError("a window is at least 1 wide")

    @property
    def object_class(self) -> ObjectClass:
        """The rules of the object class that is written."""
        return SECONDARY_CAPTURE if self.secondary_capture else OBJECT_CLASSES[self.modality]

    @property
    def is_colour(self) -> bool:
        """True when a pixel has three samples."""
        return self.photometric == "RGB"

    @property
    def stored_photometric(self) -> str:
        """Photometric Interpretation in the file: JPEG 2000 stores colour as YBR_RCT."""
        if self.is_colour and self.transfer_syntax == "jpeg-2000":
            return "YBR_RCT"
        return self.photometric

    @property
    def bits_allocated(self) -> int:
        """Bits that one sample takes in the file: 8 or 16."""
        return max(8 if self.bits_stored <= 8 else 16, self.object_class.min_bits_allocated)

    @property
    def is_encapsulated(self) -> bool:
        """True when the pixels are compressed."""
        return self.transfer_syntax in ("rle", "jpeg-ls", "jpeg-2000")
