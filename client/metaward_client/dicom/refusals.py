"""Why a file is not used: a closed list, each reason with a sentence and a next step.

No reason carries anything from the file itself. The texts of pydicom's exceptions quote values of
elements, so they are dropped where they are caught.
"""

from dataclasses import dataclass
from enum import StrEnum

from metaward.errors import DataError


class RefusalReason(StrEnum):
    """Why a file is not used."""

    NOT_DICOM = "not_dicom"
    UNREADABLE_FILE = "unreadable_file"
    UNREADABLE_HEADER = "unreadable_header"
    TOO_LARGE = "too_large"
    DICOMDIR = "dicomdir"
    NO_PIXELS = "no_pixels"
    DERIVED_OBJECT = "derived_object"
    TRUNCATED_PIXELS = "truncated_pixels"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PHOTOMETRIC = "unsupported_photometric"
    NO_INSTANCE_UID = "no_instance_uid"
    NO_PATIENT_ID = "no_patient_id"
    DUPLICATE_INSTANCE = "duplicate_instance"
    CONFLICTING_INSTANCE = "conflicting_instance"
    NO_LABEL = "no_label"
    AMBIGUOUS_LABEL = "ambiguous_label"
    UNDECODABLE_PIXELS = "undecodable_pixels"
    DECODER_DIED = "decoder_died"


@dataclass(frozen=True)
class Explanation:
    """What a reason means and what to do about it, one sentence each."""

    what: str
    next_step: str


EXPLANATIONS: dict[RefusalReason, Explanation] = {
    RefusalReason.NOT_DICOM: Explanation(
        "The content is not DICOM.",
        "Nothing to do, unless images are missing: then export them from the PACS again.",
    ),
    RefusalReason.UNREADABLE_FILE: Explanation(
        "The file or folder may not be read, or the disk reports an error.",
        "Give this user read permission, and check the disk.",
    ),
    RefusalReason.UNREADABLE_HEADER: Explanation(
        "The file says that it is DICOM, but its header is damaged or incomplete.",
        "Export the file from the PACS again.",
    ),
    RefusalReason.TOO_LARGE: Explanation(
        "The header, the inflated content or one frame is larger than this program reads.",
        "See docs/dicom.md for the bounds; store the file uncompressed or leave it out.",
    ),
    RefusalReason.DICOMDIR: Explanation(
        "A DICOMDIR lists other files and holds no image; the tree is searched anyway.",
        "Nothing to do.",
    ),
    RefusalReason.NO_PIXELS: Explanation(
        "A DICOM object without an image: a report, a plan, a presentation state.",
        "Nothing to do.",
    ),
    RefusalReason.DERIVED_OBJECT: Explanation(
        "Pixels that are no picture of a patient: a segmentation, a dose, a parametric map.",
        "Nothing to do.",
    ),
    RefusalReason.TRUNCATED_PIXELS: Explanation(
        "The file ends before its pixels do, or is an image whose pixels are missing.",
        "Copy or export the file again.",
    ),
    RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX: Explanation(
        "No installed decoder reads this compression.",
        "Let the PACS export Explicit VR Little Endian; docs/dicom.md lists what is read.",
    ),
    RefusalReason.UNSUPPORTED_PHOTOMETRIC: Explanation(
        "The colours are coded in a way that is not read (CMYK, HSV, YBR_PARTIAL).",
        "Let the PACS export RGB or MONOCHROME2.",
    ),
    RefusalReason.NO_INSTANCE_UID: Explanation(
        "The header has no SOP Instance UID, so copies of the image cannot be told apart.",
        "Export the file from the PACS again.",
    ),
    RefusalReason.NO_PATIENT_ID: Explanation(
        "The header has no patient ID, so the image cannot be kept on one side of a split.",
        "Export with patient IDs; pseudonyms are fine if one patient has one pseudonym.",
    ),
    RefusalReason.DUPLICATE_INSTANCE: Explanation(
        "Another file holds the same image (same SOP Instance UID); one copy is used.",
        "Nothing to do.",
    ),
    RefusalReason.CONFLICTING_INSTANCE: Explanation(
        "Files with one SOP Instance UID name different patients; none of them is used.",
        "Find out which file is right and remove the others. Until then a privacy mechanism "
        "protects these patients as one group, not each of them.",
    ),
    RefusalReason.NO_LABEL: Explanation(
        "The label table, or the folder structure, has no label for this image.",
        "Add the image to the label table, or leave it out on purpose.",
    ),
    RefusalReason.AMBIGUOUS_LABEL: Explanation(
        "The image has two different labels, so it is left out.",
        "Correct the label table or the folders; the scan names the rows.",
    ),
    RefusalReason.UNDECODABLE_PIXELS: Explanation(
        "The pixels could not be decoded.",
        "Probably cut off or damaged: export it again. If a viewer shows it, please report the "
        "transfer syntax to us.",
    ),
    RefusalReason.DECODER_DIED: Explanation(
        "Decoding crashed, took too long or took too much memory; it ran in a process of its own.",
        "Leave the file out, or scan again on a quieter machine.",
    ),
}


class RefusedImage(DataError):  # noqa: N818 (what it is about is the image)
    """One file cannot be used.

    Args:
        reason: Why.
    """

    def __init__(self, reason: RefusalReason) -> None:
        self.reason = reason
        explanation = EXPLANATIONS[reason]
        super().__init__(f"{reason.value}: {explanation.what}", next_step=explanation.next_step)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the reason when the error crosses a process boundary."""
        return (RefusedImage, (self.reason,))
