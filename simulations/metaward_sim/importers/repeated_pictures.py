"""The same picture under two patients: split by patient, it would be learned from and asked about.

Collections from the web have such pictures: one person under two ids, or one case sent in twice.
"""

import hashlib

from metaward_sim.image_record import ImageRecord

_DIGEST_BYTES = 16


class RepeatedPictures:
    """Counts images that show, to the last bit, what an image of another patient shows."""

    def __init__(self) -> None:
        self._patient_of: dict[bytes, tuple[str, str]] = {}
        self._repeated = 0

    def add(self, hospital: str, record: ImageRecord) -> None:
        """Look at one image; equal ids of two hospitals are two patients."""
        pixels = record.pixels
        content = f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
        patient = hospital, record.patient
        if self._patient_of.setdefault(digest, patient) != patient:
            self._repeated += 1

    def remarks(self) -> tuple[str, ...]:
        """Return what the user should know."""
        if not self._repeated:
            return ()
        is_one = self._repeated == 1
        return (
            f"{self._repeated} {'image shows' if is_one else 'images show'} exactly what an image "
            "of another patient shows: where one is learned from and the other asked about, scores "
            "will be too good; give both one patient id, or leave one out",
        )
