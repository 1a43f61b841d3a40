"""The authority and the certificate: what openssl, Python's TLS and a hospital accept."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from metaward.enrolment import certificate_fingerprint
from metaward_server.coordinator.certificates import (
    AUTHORITY_LASTS,
    Issued,
    days_left,
    new_authority,
    new_server_certificate,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AUTHORITY = new_authority("demo", NOW)
SERVER = new_server_certificate(AUTHORITY, "federation.example.org", NOW)


def verify(server: Issued, name: str, authority: Issued = AUTHORITY, at: datetime = NOW) -> None:
    store = Store([x509.load_pem_x509_certificate(authority.certificate)])
    verifier = PolicyBuilder().store(store).time(at).build_server_verifier(x509.DNSName(name))
    verifier.verify(x509.load_pem_x509_certificate(server.certificate), [])


@pytest.mark.parametrize("name", ["federation.example.org", "localhost"])
def test_the_certificate_is_valid_for_the_public_name_and_for_this_machine(name: str) -> None:
    verify(SERVER, name)


def test_the_certificate_is_valid_for_no_other_name_authority_or_day() -> None:
    with pytest.raises(VerificationError):
        verify(SERVER, "other.example.org")
    with pytest.raises(VerificationError):
        verify(SERVER, "localhost", new_authority("demo", NOW))
    for at in (NOW - timedelta(days=1), NOW + timedelta(days=731)):
        with pytest.raises(VerificationError):
            verify(SERVER, "localhost", at=at)


def test_a_hospital_whose_clock_is_half_an_hour_behind_accepts_a_new_certificate() -> None:
    verify(SERVER, "localhost", at=NOW - timedelta(minutes=30))


def test_a_certificate_does_not_outlive_the_authority_without_which_nobody_accepts_it() -> None:
    late = NOW + AUTHORITY_LASTS - timedelta(days=100)
    server = new_server_certificate(AUTHORITY, "federation.example.org", late)
    assert round(days_left(x509.load_pem_x509_certificate(server.certificate), late)) == 100
    verify(server, "localhost", at=late + timedelta(days=99))


def test_a_server_cannot_issue_certificates_of_its_own() -> None:
    leaf = new_server_certificate(SERVER, "evil.example.org", NOW)
    store = Store([x509.load_pem_x509_certificate(AUTHORITY.certificate)])
    verifier = (
        PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("localhost"))
    )
    between = [x509.load_pem_x509_certificate(SERVER.certificate)]
    with pytest.raises(VerificationError):
        verifier.verify(x509.load_pem_x509_certificate(leaf.certificate), between)


def test_openssl_accepts_them_strictly(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = new_authority("demo", now)
    server = new_server_certificate(authority, "127.0.0.1", now)
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "server.crt").write_bytes(server.certificate)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "server.crt"]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stderr


def test_pythons_tls_takes_key_and_certificate_together(tmp_path: Path) -> None:
    (tmp_path / "server.crt").write_bytes(SERVER.certificate)
    (tmp_path / "server.key").write_bytes(SERVER.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")


def test_a_key_that_is_not_the_authoritys_signs_nothing() -> None:
    mixed = Issued(AUTHORITY.certificate, new_authority("demo", NOW).key)
    with pytest.raises(ValueError, match="does not belong"):
        new_server_certificate(mixed, "localhost", NOW)


def test_days_left_fall_below_zero_when_it_has_expired() -> None:
    certificate = x509.load_pem_x509_certificate(SERVER.certificate)
    assert round(days_left(certificate, NOW)) == 730
    assert days_left(certificate, NOW + timedelta(days=731)) < 0


def test_the_fingerprint_is_that_of_openssl(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", "ca.crt"]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.stdout.strip().endswith(certificate_fingerprint(AUTHORITY.certificate))
