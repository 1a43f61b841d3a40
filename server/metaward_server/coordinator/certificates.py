"""The coordinator's own certificate authority, and the certificate that hospitals check.

One authority for one federation: a hospital trusts its certificate, which comes with the kit, and
no other, so that a certificate from a public authority for the same name is worth nothing here.
Elliptic curve P-384 throughout (NIST SP 800-186), which is what Flower's node keys are as well.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LASTS = timedelta(days=3650)
CERTIFICATE_LASTS = timedelta(days=730)
BACKDATED = timedelta(hours=1)
"""A hospital's clock may be a little behind."""
OWN_NAMES = ("localhost", "127.0.0.1")
"""Under which the coordinator's own processes, and its proxy, reach the SuperLink."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def new_authority(federation: str, now: datetime) -> Issued:
    """Return a certificate authority that signs servers and nothing else."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"{federation} metaward authority")
    builder = (
        _builder(name, name, key.public_key(), now, now - BACKDATED + AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return _issued(builder.sign(key, hashes.SHA384()), key)


def new_server_certificate(authority: Issued, host: str, now: datetime) -> Issued:
    """Return a certificate for ``host``, a DNS name or an address, and for this machine itself.

    It does not outlive the authority, without which no hospital accepts it.

    Raises:
        ValueError: The authority's key is damaged, or is not its certificate's.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signing = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not one on an elliptic curve")
    if signing.public_key() != issuer.public_key():
        raise ValueError("the authority's key does not belong to its certificate")
    key = ec.generate_private_key(ec.SECP384R1())
    names = dict.fromkeys([host, *OWN_NAMES])
    end = min(now - BACKDATED + CERTIFICATE_LASTS, issuer.not_valid_after_utc)
    builder = (
        _builder(_name(host), issuer.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
            critical=False,
        )
    )
    return _issued(builder.sign(signing, hashes.SHA384()), key)


def days_left(certificate: x509.Certificate, now: datetime) -> float:
    """Return for how many days a certificate is still valid; negative when it has expired."""
    return (certificate.not_valid_after_utc - now) / timedelta(days=1)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - BACKDATED)
        .not_valid_after(end.astimezone(UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issued(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
