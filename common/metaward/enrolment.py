"""How a hospital joins: a request that the hospital makes, a kit that the coordinator gives back.

Neither is secret. The request holds the hospital's public key and a signature that only the owner
of the private key can make; that key never leaves the hospital. The kit says where the coordinator
is and whose certificates to trust: so the fingerprint in it is compared by telephone before it is
used. Both are small YAML files that people can read.
"""

import base64
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, field_validator

from metaward.config import Settings, load_settings
from metaward.errors import ConfigError
from metaward.patterns import ADDRESS, NAME
from metaward.whole_file import write_atomically


class EnrolmentRequest(Settings):
    """What a hospital sends to the coordinator, once."""

    hospital: str = Field(pattern=NAME, description="name in the federation")
    public_key: str = Field(max_length=300, description="OpenSSH, on the curve P-384")
    signature: str = Field(max_length=300, description="base64; shows who owns the key")


class Kit(Settings):
    """What the coordinator gives to a hospital, once."""

    hospital: str = Field(pattern=NAME, description="name in the federation")
    federation: str = Field(pattern=NAME, description="the coordinator's name")
    address: str = Field(pattern=ADDRESS, description="host:port of the coordinator")
    public_key: str = Field(max_length=300, description="that was enrolled: the hospital's own")
    ca_certificate: str = Field(max_length=10_000, description="PEM")

    @field_validator("ca_certificate")
    @classmethod
    def _can_be_read(cls, pem: str) -> str:
        try:
            x509.load_pem_x509_certificate(pem.encode("ascii"))
        except ValueError:
            raise ValueError("must be a certificate in PEM, whole: ask for the kit again") from None
        return pem


def new_request(hospital: str, key: ec.EllipticCurvePrivateKey) -> EnrolmentRequest:
    """Return the request of the hospital that owns ``key``."""
    public = public_text(key.public_key())
    signature = key.sign(_signed(hospital, public), ec.ECDSA(hashes.SHA384()))
    return EnrolmentRequest(
        hospital=hospital, public_key=public, signature=base64.b64encode(signature).decode()
    )


def read_request(path: Path) -> EnrolmentRequest:
    """Read a request and check that its sender owns the key.

    Raises:
        ConfigError: The file is wrong, the key is not one on P-384, or the signature is not its
            owner's: the file was changed on its way, or somebody sends another's key.
    """
    request = load_settings(path, EnrolmentRequest)
    key = read_public_key(request.public_key, where=f"{path}, public_key")
    try:
        signature = base64.b64decode(request.signature, validate=True)
        signed = _signed(request.hospital, request.public_key)
        key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise ConfigError(
            "a signature that is not made with the key in the request",
            expected="the file as the hospital's `metaward site init` wrote it",
            where=str(path),
            next_step="Ask the hospital for the file again, by a way that does not change it.",
        ) from None
    return request


def read_public_key(text: str, *, where: str) -> ec.EllipticCurvePublicKey:
    """Read an OpenSSH public key on P-384, as :func:`public_text` writes it.

    Raises:
        ConfigError: It is none; or it is written otherwise, and would not be known as the same key.
    """
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not (
        isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(key.curve, ec.SECP384R1)
        and public_text(key) == text
    ):
        raise ConfigError(
            "no public key on the curve P-384",
            expected="one line that begins with ecdsa-sha2-nistp384, without a comment",
            where=where,
            next_step="Make the request with `metaward site init`.",
        )
    return key


def public_text(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as OpenSSH writes it, without a comment."""
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def certificate_fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of a whole PEM certificate as people compare it: AB:CD:..."""
    digest = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


def write_yaml(path: Path, settings: Settings) -> None:
    """Write a request or a kit, for people to read and send."""
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, width=1000)
    write_atomically(path, text)


def _signed(hospital: str, public_key: str) -> bytes:
    return f"metaward enrolment 1\n{hospital}\n{public_key}\n".encode()
