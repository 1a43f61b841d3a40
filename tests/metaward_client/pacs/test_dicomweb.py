"""Images over DICOMweb from a PACS that misbehaves: whole or counted, and none of it comes out."""

import errno
import io
import logging
import traceback
from pathlib import Path

import pytest

from dicom_factory import uid_of
from dicomweb_site import N_IMAGES, PLANTED, STUDY, fetch, healthy, site_at
from faulty_pacs import FakeClock, FaultyPacs, Reply, bare, in_chunks, multipart, rows
from metaward import cli
from metaward.errors import MetawardError
from metaward_client.pacs import landing as landing_module
from metaward_client.pacs import site_fetch
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.landing import fetched_folder
from metaward_client.pacs.site_fetch import fetch_site
from metaward_client.site_config import read_site_config

FRAMED = multipart(b"").headers


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


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ("30", 30),
        ("9" * 400, 300),
        ("Tue, 01 Dec 2026 08:00:40 GMT", 40),
        ("Tue, 01 Dec 2048 08:00:00 GMT", 300),
        ("Tue, 01 Dec 1998 08:00:00 GMT", 1),
        ("Tue, 99 Dec 99999 08:00:00 GMT", 1),
        ("-5", 1),
        ("soon", 1),
    ],
)
def test_a_busy_pacs_is_left_alone_for_as_long_as_it_asks_or_until_when(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path, asked: str, waits: int
) -> None:
    time = FakeClock()
    now = "Tue, 01 Dec 2026 08:00:00 GMT"
    pacs.answer = healthy(images, image=Reply(503, headers={"Retry-After": asked, "Date": now}))
    fetch(tmp_path, pacs.url, time, requests_per_second=1000.0)
    assert next(pause for pause in time.slept if pause >= 1) == waits


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


def test_a_bare_image_that_is_said_to_be_a_part_is_not_taken_for_whole(
    pacs: FaultyPacs, images: list[bytes], tmp_path: Path
) -> None:
    part = bare(images[1][: len(images[1]) * 3 // 4])
    pacs.answer = healthy(images, image=Reply(206, part.body, part.headers))
    assert fetch(tmp_path, pacs.url).failed == {Failure.INCOMPLETE: 1}


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
