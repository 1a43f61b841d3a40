"""What the index keeps of a file's header."""

from dataclasses import dataclass
from typing import TypeAlias

from metaward_client.dicom.refusals import RefusalReason


@dataclass(frozen=True, slots=True)
class Header:
    """The elements that joining, grouping and decoding need.

    Attributes:
        sop_instance_uid: Empty when the file has none; likewise for the other texts.
        series_instance_uid: See above.
        study_instance_uid: See above.
        patient_id: As in the file; see ``metaward_client.patients`` for the comparable form.
        issuer: Issuer of the patient ID.
        modality: Any text; :func:`~metaward_client.dicom.transfer_syntaxes.modality_name`
            before printing.
        transfer_syntax: UID.
        frames: At least 1.
    """

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    issuer: str
    modality: str
    transfer_syntax: str
    frames: int


HeaderOutcome: TypeAlias = Header | RefusalReason
"""A header, or why the file is no usable image."""
