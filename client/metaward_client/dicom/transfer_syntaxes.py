"""One table of transfer syntaxes: a name to print, and the decoder that is fastest at it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferSyntax:
    """What to call a transfer syntax, and how to decode it.

    Attributes:
        name: For reports. A UID from a file is never printed: it may be anything.
        plugin: pydicom's decoding plugin to use; empty lets pydicom try all that are installed.
            Set where one was measured to be much faster than pydicom's first choice (RLE: ten
            times, JPEG-LS: twice; 512 x 512 x 16 bit).
    """

    name: str
    plugin: str = ""


IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_EXTENDED_12_BIT = "1.2.840.10008.1.2.4.51"

NATIVE = frozenset(
    {
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
    }
)
"""Pixels are stored as they are; everything else is encapsulated and needs a codec."""

AS_LARGE_AS_THE_FILE = NATIVE - {DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN}
"""No file is larger when it is read than on the disk."""

TRANSFER_SYNTAXES: dict[str, TransferSyntax] = {
    IMPLICIT_VR_LITTLE_ENDIAN: TransferSyntax("Implicit VR Little Endian"),
    EXPLICIT_VR_LITTLE_ENDIAN: TransferSyntax("Explicit VR Little Endian"),
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: TransferSyntax("Deflated Explicit VR Little Endian"),
    EXPLICIT_VR_BIG_ENDIAN: TransferSyntax("Explicit VR Big Endian"),
    "1.2.840.10008.1.2.4.50": TransferSyntax("JPEG Baseline"),
    JPEG_EXTENDED_12_BIT: TransferSyntax("JPEG Extended"),
    "1.2.840.10008.1.2.4.57": TransferSyntax("JPEG Lossless P14"),
    "1.2.840.10008.1.2.4.70": TransferSyntax("JPEG Lossless SV1"),
    "1.2.840.10008.1.2.4.80": TransferSyntax("JPEG-LS Lossless", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": TransferSyntax("JPEG-LS Near-lossless", "pyjpegls"),
    "1.2.840.10008.1.2.4.90": TransferSyntax("JPEG 2000 Lossless", "pylibjpeg"),
    "1.2.840.10008.1.2.4.91": TransferSyntax("JPEG 2000", "pylibjpeg"),
    "1.2.840.10008.1.2.4.100": TransferSyntax("MPEG-2"),
    "1.2.840.10008.1.2.4.101": TransferSyntax("MPEG-2 High"),
    "1.2.840.10008.1.2.4.102": TransferSyntax("MPEG-4"),
    "1.2.840.10008.1.2.4.103": TransferSyntax("MPEG-4 BD"),
    "1.2.840.10008.1.2.4.201": TransferSyntax("HTJ2K Lossless", "pylibjpeg"),
    "1.2.840.10008.1.2.4.202": TransferSyntax("HTJ2K Lossless RPCL", "pylibjpeg"),
    "1.2.840.10008.1.2.4.203": TransferSyntax("HTJ2K", "pylibjpeg"),
    "1.2.840.10008.1.2.5": TransferSyntax("RLE Lossless", "pylibjpeg"),
}

OTHER = TransferSyntax("other")


def describe(uid: str) -> TransferSyntax:
    """Return the entry of a transfer syntax UID, or one called "other"."""
    return TRANSFER_SYNTAXES.get(uid, OTHER)


_TERMS = """
AR AS AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC
ECG EEG EMG EOG EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA
MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG
RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM
SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC
"""

MODALITIES = frozenset(_TERMS.split())
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1 and the retired ones). Anything else in that
element is somebody's free text and is reported as "other"."""


def modality_name(value: str) -> str:
    """Return the modality when it is a defined term, otherwise "other"."""
    return value if value in MODALITIES else "other"
