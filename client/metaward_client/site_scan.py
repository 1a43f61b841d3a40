"""What a scan of a site found."""

from collections import Counter
from dataclasses import dataclass, field, replace

from metaward.errors import DataError
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.walk import FoundFile
from metaward_client.label_join import JoinSummary


@dataclass(frozen=True, slots=True)
class UsableImage:
    """An image that has a patient and a label.

    Attributes:
        file: Where it is; for reading, never for showing.
        modality: As in the file; see :func:`~.dicom.transfer_syntaxes.modality_name`.
        transfer_syntax: UID.
        label: Index into the scan's ``label_names``.
        patient: Number of the patient in this scan.
    """

    file: FoundFile
    modality: str
    transfer_syntax: str
    label: int
    patient: int


@dataclass(frozen=True)
class SiteScan:
    """What a site has: every file is either among ``images`` or counted in ``refused``.

    Attributes:
        site: Name.
        n_files: Files and folders looked at.
        n_headers_read: Headers that were read for this scan.
        n_headers_known: Headers that an earlier scan had read.
        images: In the order of SOP Instance UIDs.
        label_names: Sorted.
        refused: Reason -> files.
        join: How labels and images fit.
        n_pixels_read: Files decoded for this scan; None where none were asked for.
        patient_tokens: Per patient number; identify patients, so they are for computing only.
    """

    site: str
    n_files: int
    n_headers_read: int
    n_headers_known: int
    images: tuple[UsableImage, ...]
    label_names: tuple[str, ...]
    refused: dict[RefusalReason, int]
    join: JoinSummary
    n_pixels_read: int | None = None
    patient_tokens: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def n_patients(self) -> int:
        """Patients with at least one usable image."""
        return len({image.patient for image in self.images})

    def require_usable(
        self,
        *,
        where: str,
        next_step: str = "Run `metaward site scan` on this site: it explains each reason.",
    ) -> None:
        """Stop where no image is left.

        Args:
            where: The label table or folder, for the message.
            next_step: Likewise.

        Raises:
            DataError: See above; with the refusals by reason.
        """
        if not self.images:
            reasons = ", ".join(f"{n} {reason.value}" for reason, n in sorted(self.refused.items()))
            raise DataError(
                f"no usable image among {self.n_files} files"
                + (f" ({reasons})" if reasons else ""),
                expected="DICOM images with a patient ID and a label",
                where=where,
                next_step=next_step,
            )

    def without(self, refused: dict[int, RefusalReason]) -> "SiteScan":
        """Return the scan after some of its images were refused, by index."""
        counts = Counter(self.refused) + Counter(refused.values())
        images = tuple(image for i, image in enumerate(self.images) if i not in refused)
        return replace(self, images=images, refused=dict(counts))
