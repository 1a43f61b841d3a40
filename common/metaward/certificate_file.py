"""Certificates in PEM: read with a sentence where a file is damaged or missing."""

import ssl
from pathlib import Path

from cryptography import x509

from metaward.errors import ConfigError

BRING_BACK = "Bring it back from the backup."


def parse_certificate(pem: bytes, *, where: str, next_step: str = BRING_BACK) -> x509.Certificate:
    """Return the first certificate of a PEM text.

    Raises:
        ConfigError: There is none that can be read.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise ConfigError(
            "no certificate that can be read",
            expected="a certificate in PEM, whole",
            where=where,
            next_step=next_step,
        ) from None


def read_certificate(path: Path, *, next_step: str = BRING_BACK) -> x509.Certificate:
    """Return the first certificate of a PEM file.

    Raises:
        ConfigError: The file is missing, or holds none that can be read.
    """
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            "no such file", expected="a certificate", where=str(path), next_step=next_step
        ) from None
    return parse_certificate(pem, where=str(path), next_step=next_step)


def trusting(path: Path, *, next_step: str = BRING_BACK) -> ssl.SSLContext:
    """Return the settings of a TLS client that trusts the authority in a PEM file, and no other.

    Raises:
        ConfigError: See :func:`read_certificate`; or another certificate in the file is damaged.
    """
    read_certificate(path, next_step=next_step)
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"no certificates that can be read ({error.reason})",
            expected="certificates in PEM, whole",
            where=str(path),
            next_step=next_step,
        ) from None
