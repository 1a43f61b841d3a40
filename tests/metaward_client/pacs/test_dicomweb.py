"""DICOMweb against a PACS that misbehaves, and says the planted word wherever it can."""

import datetime
import errno
import gzip
import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dicom_factory import uid_of, write_dicom
from faulty_pacs import (
    FakeClock,
    FaultyPacs,
    Reply,
    bare,
    in_chunks,
    multipart,
    rows,
    running_faulty_pacs,
)
from metaward import cli
from metaward.errors import ConfigError, DataError, MetawardError
from metaward_client.pacs import dicomweb, dicomweb_access, site_fetch
from metaward_client.pacs import landing as landing_module
from metaward_client.pacs.archive import LONGEST_VALUE, StudyQuery
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.fetch import FetchReport
from metaward_client.pacs.landing import fetched_folder
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DicomwebSettings
from metaward_client.pacs.site_fetch import fetch_site
from metaward_client.site_config import read_site_config

PLANTED = "PLANTED"
STUDY = uid_of("study")
N_IMAGES = 4
FRAMED = multipart(b"").headers


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("images")
    return [
        write_dicom(path=folder / str(i), study="study", patient_id=PLANTED).read_bytes()
        for i in range(N_IMAGES)
    ]


@pytest.fixture
def pacs(images: list[bytes]) -> Iterator[FaultyPacs]:
    with running_faulty_pacs() as running:
        running.answer = healthy(images)
        yield running


def healthy(images: list[bytes], **instead: Reply) -> Callable[[str, dict[str, list[str]]], Reply]:
    """Answer as a PACS should; ``instead``: search, listing, and image (of the second one)."""
    listing = rows(
        *({"0020000E": uid_of("series"), "00080018": uid_of(str(i))} for i in range(N_IMAGES))
    )
    by_path = {
        f"/studies/{STUDY}/series/{uid_of('series')}/instances/{uid_of(str(i))}": multipart(image)
        for i, image in enumerate(images)
    }
    second = list(by_path)[1] if images else ""
    search = rows({"0020000D": STUDY, "00100020": f"{PLANTED}^ID"})

    def answer(path: str, query: dict[str, list[str]]) -> Reply:
        if path == second and "image" in instead:
            return instead["image"]
        if path == "/studies":
            return instead.get("search", search)
        if path == f"/studies/{STUDY}/instances":
            return instead.get("listing", listing)
        return by_path.get(path, Reply(404))

    return answer


def site_at(folder: Path, url: str, **pacs: object) -> Path:
    (folder / "labels.csv").write_text(f"study_instance_uid,label\n{STUDY},a")
    section = {"protocol": "dicomweb", "url": url, "timeout_seconds": 5.0, **pacs}
    data = {"root": "images", "labels": "labels.csv", "key": "study_instance_uid", "pacs": section}
    (folder / "site.yaml").write_text(yaml.safe_dump({"name": "north", "data": data}))
    return folder / "site.yaml"


def fetch(folder: Path, url: str, time: FakeClock | None = None, **pacs: object) -> FetchReport:
    config = read_site_config(site_at(folder, url, **pacs), needs_root=False)
    return fetch_site(config, clock=(time or FakeClock()).clock())


def test_all_requests_keep_the_pace_further_attempts_included(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path
) -> None:
    time = FakeClock()
    pacs.answer = healthy(images, image=Reply(503))
    report = fetch(tmp_path, pacs.url, time, requests_per_second=0.25)
    # One check, one search, one listing, three images, and five attempts for the fourth.
    assert report.n_requests == len(pacs.requests) == 3 + 3 + 5
    # Ten gaps of four seconds; of the pauses (1, 2, 4, 8 s) only the last is longer than a gap.
    assert time.time == 10 * 4 + (8 - 4)
    assert report.failed == {Failure.BUSY: 1}


def test_only_get_requests_are_sent_with_the_port_in_their_host(
    pacs: FaultyPacs, tmp_path: Path
) -> None:
    fetch(tmp_path, pacs.url)
    assert {method for method, _ in pacs.requests} == {"GET"}
    assert {headers["Host"] for headers in pacs.headers} == {pacs.url.split("/")[2]}


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply(403, PLANTED.encode()), Failure.FORBIDDEN),
        (Reply(404, PLANTED.encode()), Failure.GONE),
        (Reply(410, PLANTED.encode()), Failure.GONE),
        (Reply(429, PLANTED.encode()), Failure.BUSY),
        (Reply(500, PLANTED.encode(), {"Warning": PLANTED}), Failure.PACS_ERROR),
        (Reply(200, PLANTED.encode(), {"Content-Type": "text/html"}), Failure.NOT_UNDERSTOOD),
        (Reply(200, b"", {"Warning": f'299 x "{PLANTED}"'}), Failure.NOT_UNDERSTOOD),
        (multipart(PLANTED.encode() * 100), Failure.NOT_DICOM),
        (Reply(200, b"x", {"Content-Encoding": "gzip", **FRAMED}), Failure.INCOMPLETE),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else str(value),
)
def test_an_image_with_a_wrong_answer_is_counted_under_its_reason(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path, reply: Reply, failure: Failure
) -> None:
    pacs.answer = healthy(images, image=reply)
    report = fetch(tmp_path, pacs.url)
    assert report.failed == {failure: 1}
    assert report.n_fetched == N_IMAGES - 1


def test_half_an_answer_is_asked_for_again_and_then_counted(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path
) -> None:
    whole = multipart(images[1])
    cut = Reply(200, whole.body, whole.headers, cut=len(whole.body) // 2)
    pacs.answer = healthy(images, image=cut)
    report = fetch(tmp_path, pacs.url)
    assert report.failed == {Failure.INCOMPLETE: 1}
    assert pacs.n_images_asked_for() == 3 + 5
    assert len(list(fetched_folder(tmp_path / "images").glob("??/*"))) == 3


@pytest.mark.parametrize("length", ["", "some", "-1"], ids=["none", "no number", "negative"])
def test_an_image_whose_end_nothing_shows_is_not_taken_for_whole(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path, length: str
) -> None:
    pacs.answer = healthy(images, image=bare(images[1], length, cut=len(images[1]) * 3 // 4))
    assert fetch(tmp_path, pacs.url).failed == {Failure.INCOMPLETE: 1}
    pacs.answer = healthy(images)
    assert fetch(tmp_path, pacs.url).n_fetched == 1


def test_a_bare_image_is_taken_if_all_its_bytes_or_chunks_came(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path
) -> None:
    for number, (reply, failed) in enumerate([
        (bare(images[1]), 0),
        (bare(images[1], cut=len(images[1]) - 1), 1),
        (in_chunks(images[1]), 0),
        (in_chunks(images[1], cut=len(images[1]) * 3 // 4), 1),
        (in_chunks(images[1], cut=len(in_chunks(images[1]).body) - 5), 1),
    ]):  # fmt: skip
        pacs.answer = healthy(images, image=reply)
        (tmp_path / str(number)).mkdir()
        report = fetch(tmp_path / str(number), pacs.url)
        assert report.failed == ({Failure.INCOMPLETE: 1} if failed else {})
        assert report.n_fetched == N_IMAGES - failed


class FullDisk(io.BytesIO):
    def write(self, *_: object) -> int:
        raise OSError(errno.ENOSPC, PLANTED)


def test_a_full_disk_ends_the_fetch_at_once_with_one_sentence(
    pacs: FaultyPacs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(landing_module, "_created", lambda _: FullDisk())
    assert cli.run(["site", "fetch", str(site_at(tmp_path, pacs.url))]) == 3
    text = capfd.readouterr().err
    assert "No space left on device" in text
    assert PLANTED not in text
    assert pacs.n_images_asked_for() == 1


def test_another_image_than_the_one_asked_for_is_counted(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path
) -> None:
    pacs.answer = healthy(images, image=multipart(images[0]))
    assert fetch(tmp_path, pacs.url).failed == {Failure.OTHER_INSTANCE: 1}


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
    "listing",
    [
        Reply(200, b'{"a": '),
        Reply(200, b"[1, 2]"),
        Reply(200, b'"text"'),
        rows({"0020000E": PLANTED, "00080018": "../1"}),
        Reply(200, b'[{"00080018": 7, "0020000E": {"Value": 3}}]'),
    ],
    ids=["cut", "numbers", "text", "no UIDs", "other types"],
)
def test_a_listing_that_makes_no_sense_is_counted(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path, listing: Reply
) -> None:
    pacs.answer = healthy(images, listing=listing)
    report = fetch(tmp_path, pacs.url)
    assert (report.failed + report.unlisted).total() == 1
    assert pacs.n_images_asked_for() == 0


@pytest.mark.parametrize("obeys", [True, False], ids=["pages", "ignores the offset"])
def test_a_long_listing_comes_to_its_end(pacs: FaultyPacs, tmp_path: Path, obeys: bool) -> None:
    every = [{"0020000E": "1.2", "00080018": f"1.2.{i}"} for i in range(250)]
    pages: list[int] = []

    def answer(path: str, query: dict[str, list[str]]) -> Reply:
        if path == "/studies":
            return rows({"0020000D": STUDY})
        if path.endswith("/instances"):
            first = int(query["offset"][0])
            pages.append(first)
            return rows(*(every[first : first + 100] if obeys else every))
        return Reply(404)

    pacs.answer = answer
    report = fetch(tmp_path, pacs.url)
    assert report.failed == {Failure.GONE: 250}
    assert pages == ([0, 100, 200] if obeys else [0, 250])


def test_a_listing_whose_pages_never_end_is_given_up(
    pacs: FaultyPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "LONGEST_LISTING", 250)

    def answer(path: str, query: dict[str, list[str]]) -> Reply:
        if path == "/studies":
            return rows({"0020000D": STUDY})
        assert len(pacs.requests) < 10
        first = int(query["offset"][0])
        return rows(*({"0020000E": "1.2", "00080018": f"1.2.{first + i}"} for i in range(100)))

    pacs.answer = answer
    report = fetch(tmp_path, pacs.url)
    assert report.unlisted == {Failure.LISTING_TOO_LONG: 1}
    assert len(pacs.requests) == 2 + 3


@pytest.mark.parametrize(
    ("question", "status"),
    [("listing", 200), ("listing", 302), ("listing", 500), ("image", 302)],
)
def test_an_answer_that_would_fill_the_memory_is_given_up(
    pacs: FaultyPacs,
    images: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    status: int,
) -> None:
    monkeypatch.setattr(dicomweb_access, "LARGEST_PAGE", 100_000)
    body = rows(*({"0020000E": "1.2", "00080018": f"1.2.{i}"} for i in range(5_000))).body
    reply = Reply(status, body, {"Location": pacs.url} if status == 302 else {})
    pacs.answer = healthy(images, **{question: reply})
    report = fetch(tmp_path, pacs.url)
    assert report.failed + report.unlisted == {Failure.LISTING_TOO_LONG: 1}


def test_a_compressed_listing_counts_as_long_as_it_is_unpacked(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb_access, "LARGEST_PAGE", 100_000)
    body = gzip.compress(b"[" + b" " * 1_000_000 + b"]")
    assert len(body) < 10_000
    pacs.answer = healthy(images, listing=Reply(200, body, {"Content-Encoding": "gzip"}))
    assert fetch(tmp_path, pacs.url).unlisted == {Failure.LISTING_TOO_LONG: 1}


def test_of_a_value_that_is_too_long_only_the_beginning_is_kept(pacs: FaultyPacs) -> None:
    pacs.answer = lambda *_: rows({"0020000D": STUDY, "00100020": "x" * 100_000})
    settings = DicomwebSettings(protocol="dicomweb", url=pacs.url)
    archive = dicomweb.DicomwebArchive(settings, None, Pace(1000.0, FakeClock().clock()))
    assert [len(study.patient_id) for study in archive.studies(StudyQuery())] == [LONGEST_VALUE]
    archive.close()


def test_a_uid_that_no_text_can_hold_does_not_end_a_fetch(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path
) -> None:
    sound = json.loads(healthy(images)(f"/studies/{STUDY}/instances", {}).body)
    half_a_character = {
        tag: {"Value": [value]} for tag, value in (("0020000E", "1.2"), ("00080018", "1.2.\ud800"))
    }
    listing = Reply(body=json.dumps([half_a_character, *sound]).encode())
    pacs.answer = healthy(images, listing=listing)
    report = fetch(tmp_path, pacs.url)
    assert report.failed == {Failure.SENSELESS_UID: 1}
    assert report.n_fetched == N_IMAGES


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


def test_without_the_extra_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'metaward\[pacs\]'"):
        fetch(tmp_path, "http://127.0.0.1:9")


REPLIES = [
    {},
    {"image": Reply(500, PLANTED.encode(), {"Warning": f'299 - "{PLANTED}"'})},
    {"image": Reply(200, PLANTED.encode(), {"Content-Type": f"multipart/{PLANTED}"})},
    {"image": multipart(PLANTED.encode() * 50)},
    {"listing": Reply(200, f"[{PLANTED}".encode())},
    {"listing": rows({"0020000E": PLANTED, "00080018": PLANTED})},
    {"search": Reply(401, PLANTED.encode(), {"WWW-Authenticate": f'Basic realm="{PLANTED}"'})},
    {"search": Reply(302, headers={"Location": f"http://{PLANTED}.invalid/"})},
    {"search": rows({"0020000D": PLANTED, "00100020": PLANTED})},
]


@pytest.mark.parametrize("replies", REPLIES, ids=str)
def test_nothing_of_the_data_or_of_an_answer_comes_out(
    pacs: FaultyPacs,
    images: list[bytes],
    tmp_path: Path,
    replies: dict[str, Reply],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    pacs.answer = healthy(images, **replies)
    site = site_at(tmp_path, pacs.url)
    codes = {cli.run(["site", "fetch", str(site), *more]) for more in ([], ["--json"])}
    assert codes <= {0, 2, 3}
    text = "".join(capfd.readouterr()) + caplog.text
    try:
        fetch_site(read_site_config(site, needs_root=False), clock=FakeClock().clock())
    except MetawardError as error:
        text += "".join(traceback.format_exception(error)) + repr(error.__context__)
    text += "".join(str(path) for path in (tmp_path / "images").rglob("*"))
    for secret in (PLANTED, STUDY, uid_of("series"), *(uid_of(str(i)) for i in range(N_IMAGES))):
        assert secret not in text
    assert PLANTED.encode() in b"".join(images)


def test_the_libraries_that_quote_are_silenced() -> None:
    assert set(site_fetch.LOGGERS) >= {"dicomweb_client", "pynetdicom", "urllib3"}
