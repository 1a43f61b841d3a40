"""Which images belong to one patient."""

import hashlib
import hmac

from metaward_client.dicom.header import Header
from metaward_client.unicode_form import one_form

PatientKey = tuple[str, str]
"""Issuer and patient ID, comparable."""


def patient_key(header: Header) -> PatientKey | None:
    """Return what is equal for two images of one patient; None without a patient ID.

    Hospitals write one ID in several ways (padded, lower case), and two departments may give the
    same ID to different patients under different issuers.
    """
    identifier = comparable_id(header.patient_id)
    return (comparable_id(header.issuer), identifier) if identifier else None


def comparable_id(text: str) -> str:
    """Return a patient ID, or who issued it, as it is compared: blanks, case, form of an ä.

    >>> comparable_id(" p7 ")
    'P7'
    """
    return one_form(text.strip().upper())


def token(key: PatientKey) -> bytes:
    """Return a patient as bytes; two patients never give the same. Never leaves the process."""
    issuer, identifier = (part.encode("utf-8", "surrogatepass") for part in key)
    return len(issuer).to_bytes(4, "big") + issuer + identifier


def fingerprint(key: PatientKey, salt: bytes) -> bytes:
    """Return a keyed hash of a patient (HMAC-SHA256), to compare within one process.

    Patient IDs are short: who knows the salt can try them all. Neither leaves the machine.
    """
    message = "\0".join(key).encode("utf-8", "surrogatepass")
    return hmac.new(salt, message, hashlib.sha256).digest()
