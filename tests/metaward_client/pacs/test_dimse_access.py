"""Over DIMSE: an encrypted connection to the right PACS only, and a user that it knows."""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pynetdicom import AE, evt

from faulty_pacs import FakeClock
from metaward import cli
from metaward.errors import ConfigError
from metaward_client.pacs.dimse_connection import FIND, GET
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DimseSettings
from metaward_client.pacs.site_fetch import open_archive
from metaward_server.coordinator.certificates import (
    Issued,
    new_authority,
    new_server_certificate,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("sockets_are_collected"),
]

USER, PASSWORD = "anna", "hunter2"
NOW = datetime.now(UTC)


@dataclass
class Pacs:
    """A PACS that knows one user, and may want TLS and a certificate of ours."""

    port: int
    users: list[tuple[bytes, bytes]] = field(default_factory=list)


@pytest.fixture(scope="module")
def authority() -> Issued:
    return new_authority("hospital", NOW)


@pytest.fixture(scope="module")
def ours() -> Issued:
    """Return a certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "metaward")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=1))
    certificate = builder.not_valid_after(NOW + timedelta(days=1)).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(certificate.public_bytes(pem), private)


def written(folder: Path, name: str, issued: Issued) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(issued.certificate)
    key.write_bytes(issued.key)
    key.chmod(0o600)
    return certificate, key


@pytest.fixture
def started() -> Iterator[Callable[..., Pacs]]:
    servers = []

    def start(context: ssl.SSLContext | None = None) -> Pacs:
        pacs = Pacs(0)

        def who(event: evt.Event) -> tuple[bool, None]:
            pacs.users.append((event.primary_field, event.secondary_field))
            return (event.primary_field, event.secondary_field) == (
                USER.encode(),
                PASSWORD.encode(),
            ), None

        entity = AE(ae_title="PACS")
        for kind in (FIND, GET):
            entity.add_supported_context(kind)
        server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            ssl_context=context,
            evt_handlers=[(evt.EVT_USER_ID, who)],
        )
        assert server is not None
        servers.append(server)
        pacs.port = server.socket.getsockname()[1]
        return pacs

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def encrypted(
    started: Callable[..., Pacs], authority: Issued, ours: Issued, tmp_path: Path
) -> Callable[..., Pacs]:
    def start(*, knows_us: bool = False) -> Pacs:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issued = new_server_certificate(authority, "127.0.0.1", NOW)
        context.load_cert_chain(*written(tmp_path, "pacs", issued))
        if knows_us:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=ours.certificate.decode())
        return started(context)

    return start


def connect(pacs: Pacs, **settings: Any) -> None:
    """Open a connection and close it."""
    pacs_settings = DimseSettings(
        protocol="dimse", host=settings.pop("host", "127.0.0.1"), port=pacs.port,
        called_ae_title="PACS", timeout_seconds=5, **settings,
    )  # fmt: skip
    archive = open_archive(pacs_settings, Pace(1000.0, FakeClock().clock()))
    try:
        archive.check()
    finally:
        archive.close()


def credentials(folder: Path, text: str = f"user: {USER}\npassword: {PASSWORD}\n") -> Path:
    path = folder / "credentials"
    path.write_text(text)
    path.chmod(0o600)
    return path


def ca(folder: Path, authority: Issued) -> Path:
    return written(folder, "ca", authority)[0]


def test_an_encrypted_connection_to_a_pacs_of_the_hospitals_own_authority(
    encrypted: Callable[..., Pacs], authority: Issued, tmp_path: Path
) -> None:
    connect(encrypted(), tls=True, ca=ca(tmp_path, authority))


def test_a_pacs_that_the_authority_has_not_signed_is_refused(
    encrypted: Callable[..., Pacs], tmp_path: Path
) -> None:
    other = ca(tmp_path, new_authority("another", NOW))
    for trusted in (other, None):
        with pytest.raises(ConfigError, match="certificate cannot be verified"):
            connect(encrypted(), tls=True, ca=trusted)


def test_a_certificate_of_another_host_is_refused(
    started: Callable[..., Pacs], ours: Issued, tmp_path: Path
) -> None:
    certificate, key = written(tmp_path, "nameless", ours)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with pytest.raises(ConfigError, match="certificate cannot be verified"):
        connect(started(context), tls=True, ca=certificate)


def test_a_pacs_without_tls_is_not_spoken_to_in_clear(
    started: Callable[..., Pacs], authority: Issued, tmp_path: Path
) -> None:
    pacs = started()
    with pytest.raises(ConfigError, match="speaks no TLS there"):
        connect(pacs, tls=True, ca=ca(tmp_path, authority), credentials=credentials(tmp_path))
    assert pacs.users == []


def test_a_pacs_that_wants_our_certificate_gets_it(
    encrypted: Callable[..., Pacs], authority: Issued, ours: Issued, tmp_path: Path
) -> None:
    certificate, key = written(tmp_path, "ours", ours)
    trusted = ca(tmp_path, authority)
    pacs = encrypted(knows_us=True)
    connect(pacs, tls=True, ca=trusted, certificate=certificate, key=key)
    with pytest.raises(ConfigError, match="wants one of ours"):
        connect(pacs, tls=True, ca=trusted)
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read it"):
        connect(pacs, tls=True, ca=trusted, certificate=certificate, key=key)


def test_a_key_that_is_missing_is_named_by_its_setting(
    started: Callable[..., Pacs], ours: Issued, tmp_path: Path
) -> None:
    certificate, key = written(tmp_path, "ours", ours)
    key.unlink()
    with pytest.raises(ConfigError, match=r"data\.pacs\.key.*no such file.*correct data\.pacs"):
        connect(started(), tls=True, certificate=certificate, key=key)


def test_a_damaged_certificate_is_one_sentence(
    started: Callable[..., Pacs], tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="missing, damaged, or locked"):
        connect(started(), tls=True, ca=tmp_path / "ca.pem")


def test_a_user_and_a_password_are_shown_to_the_pacs(
    started: Callable[..., Pacs], tmp_path: Path
) -> None:
    pacs = started()
    connect(pacs, credentials=credentials(tmp_path))
    assert pacs.users == [(USER.encode(), PASSWORD.encode())]


def test_a_wrong_password_is_one_sentence_that_does_not_hold_it(
    started: Callable[..., Pacs], tmp_path: Path
) -> None:
    wrong = credentials(tmp_path, f"user: {USER}\npassword: wrong-{PASSWORD}\n")
    with pytest.raises(ConfigError, match="a user and password") as refused:
        connect(started(), credentials=wrong)
    assert PASSWORD not in str(refused.value)
    assert USER not in str(refused.value)


def test_a_token_is_refused(started: Callable[..., Pacs], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="user and password, which is what DIMSE has"):
        connect(started(), credentials=credentials(tmp_path, "token: abc\n"))


@pytest.mark.parametrize(
    "section", [{"ca": "ca.pem"}, {"tls": True, "key": "k"}, {"tls": True, "certificate": "c"}]
)
def test_settings_that_would_not_do_what_they_say_are_refused(
    tmp_path: Path, section: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pacs = {"protocol": "dimse", "host": "h", "called_ae_title": "PACS", **section}
    data = {"root": "images", "labels": "l.csv", "key": "study_instance_uid", "pacs": pacs}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "north", "data": data}))
    assert cli.run(["site", "fetch", str(tmp_path / "site.yaml")]) == 2
    said = capsys.readouterr().err
    assert "need `tls: true`" in said or "come together" in said
