"""The way to a PACS over DICOMweb: the right one, with our credentials alone, or one sentence."""

import datetime
import json
import socket
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dicomweb_site import N_IMAGES, PLANTED, fetch, healthy, site_at
from faulty_pacs import FakeClock, FaultyPacs, Reply, running_faulty_pacs
from metaward import cli
from metaward.errors import ConfigError, DataError, MetawardError


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(401, PLANTED.encode()), "does not accept the credentials"),
        (Reply(403, PLANTED.encode()), "does not let this account search"),
        (Reply(404, PLANTED.encode()), "no DICOMweb service answers there"),
        (Reply(500, PLANTED.encode()), "no DICOMweb service answers there"),
        (Reply(200, f"<p>{PLANTED}".encode()), "no DICOMweb service answers there"),
        (Reply(302, headers={"Location": f"http://{PLANTED}/"}), "sends us on to another URL"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_a_pacs_that_does_not_let_us_in_is_one_sentence(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path, reply: Reply, message: str
) -> None:
    pacs.answer = healthy(images, search=reply)
    with pytest.raises(ConfigError, match=message):
        fetch(tmp_path, pacs.url)
    assert len(pacs.requests) == 1


def test_a_pacs_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    with running_faulty_pacs() as pacs:
        url = pacs.url
    time = FakeClock()
    with pytest.raises(DataError, match=r"stayed away.*no_answer"):
        fetch(tmp_path, url, time, requests_per_second=1000.0)
    assert sum(time.slept) == pytest.approx(1 + 2 + 4 + 8)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (socket.EAI_NONAME, ConfigError, r"data\.pacs\.url: no such host"),
        (socket.EAI_AGAIN, DataError, r"stayed away.*no_answer"),
    ],
    ids=["nobody knows it", "nobody can be asked"],
)
def test_a_host_without_address_is_wrong_only_if_whoever_knows_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[MetawardError],
    message: str,
) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "no address")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(error, match=message):
        fetch(tmp_path, "https://pacs.invalid/dicom-web")


@pytest.mark.parametrize(
    "url",
    [f"ftp://{PLANTED}/x", f"https://a:{PLANTED}@host/x", f"{PLANTED}", f"http://h:{PLANTED}/",
     f"https://host/x?token={PLANTED}", "http://"],
)  # fmt: skip
def test_a_url_that_is_wrong_or_holds_a_password_is_refused_and_not_quoted(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(ConfigError, match=r"data\.pacs\.url") as caught:
        fetch(tmp_path, url)
    assert PLANTED not in str(caught.value)


def test_a_token_is_sent_and_neither_netrc_nor_a_proxy_is_used(
    pacs: FaultyPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine localhost login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    fetch(tmp_path, pacs.url)
    assert not any("Authorization" in headers for headers in pacs.headers)
    (tmp_path / "c").write_text("token: abc")
    (tmp_path / "c").chmod(0o600)
    pacs.headers.clear()
    fetch(tmp_path, pacs.url, credentials="c")
    assert {headers["Authorization"] for headers in pacs.headers} == {"Bearer abc"}


def self_signed(path: Path, host: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(certificate.public_bytes(pem) + private)
    return path


def test_a_certificate_is_verified_against_the_authority_that_the_site_names(
    images: list[bytes], tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path / "localhost.pem", "localhost")
    with running_faulty_pacs(certificate) as pacs:
        pacs.answer = healthy(images)
        with pytest.raises(ConfigError, match=r"no trusted connection.*data\.pacs\.ca"):
            fetch(tmp_path, pacs.url)
        assert pacs.requests == []
        assert fetch(tmp_path, pacs.url, ca="localhost.pem").n_fetched == N_IMAGES


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
def test_an_encrypted_connection_is_told_as_one_however_its_url_is_written(
    images: list[bytes], tmp_path: Path, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_faulty_pacs(self_signed(tmp_path / "localhost.pem", "localhost")) as pacs:
        pacs.answer = healthy(images)
        url = pacs.url.replace("https:", f"{scheme}:")
        site = site_at(tmp_path, url, ca="localhost.pem", requests_per_second=1000.0)
        assert cli.run(["site", "fetch", str(site), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["encrypted"] is True
        assert cli.run(["site", "fetch", str(site)]) == 0
        assert "not encrypted" not in capsys.readouterr().out


def test_a_certificate_of_another_host_is_refused(images: list[bytes], tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "other.pem", "other")
    with running_faulty_pacs(certificate) as pacs:
        with pytest.raises(ConfigError, match="no trusted connection"):
            fetch(tmp_path, pacs.url, ca="other.pem")
        assert pacs.requests == []


def test_tls_to_a_port_that_speaks_none_is_one_sentence(pacs: FaultyPacs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speaks no TLS there"):
        fetch(tmp_path, pacs.url.replace("http:", "https:"))


def test_a_certificate_that_is_missing_is_one_sentence(pacs: FaultyPacs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*data\.pacs\.ca"):
        fetch(tmp_path, pacs.url, ca="gone.pem")


def test_a_certificate_that_cannot_be_read_is_one_sentence_about_its_setting(
    pacs: FaultyPacs, tmp_path: Path
) -> None:
    pem = self_signed(tmp_path / "localhost.pem", "localhost").read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    der = certificate.public_bytes(serialization.Encoding.DER)
    for content in (der, b"", b"-----BEGIN CERTIFICATE-----\n"):
        (tmp_path / "ca.cer").write_bytes(content)
        with pytest.raises(ConfigError, match=r"data\.pacs\.ca \(.*no certificate in the file"):
            fetch(tmp_path, pacs.url, ca="ca.cer")
    with pytest.raises(ConfigError, match=r"data\.pacs\.ca \(.*Is a directory"):
        fetch(tmp_path, pacs.url, ca=".")


def test_without_the_extra_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'metaward\[pacs\]'"):
        fetch(tmp_path, "http://127.0.0.1:9")
