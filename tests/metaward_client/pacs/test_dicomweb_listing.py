"""Listings over DICOMweb: one that is senseless, endless or too large costs itself and no more."""

import gzip
import json
from pathlib import Path

import pytest

from dicomweb_site import N_IMAGES, PLANTED, STUDY, fetch, healthy
from faulty_pacs import FakeClock, FaultyPacs, Reply, rows
from metaward_client.pacs import dicomweb, dicomweb_access
from metaward_client.pacs.archive import LONGEST_VALUE, StudyQuery
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.pace import Pace
from metaward_client.pacs.settings import DicomwebSettings


@pytest.mark.parametrize(
    "listing",
    [
        Reply(200, b'{"a": '),
        Reply(200, b"[1, 2]"),
        Reply(200, b'"text"'),
        rows({"0020000E": PLANTED, "00080018": "../1"}),
        Reply(200, b'[{"00080018": 7, "0020000E": {"Value": 3}}]'),
        Reply(202),
        Reply(302),
    ],
    ids=["cut", "numbers", "text", "no UIDs", "other types", "accepted", "moved to nowhere"],
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


@pytest.mark.parametrize("says", ["Warning", "206"])
def test_a_pacs_that_says_that_there_is_more_is_asked_for_it_however_short_its_pages(
    pacs: FaultyPacs, tmp_path: Path, says: str
) -> None:
    every = [{"0020000E": "1.2", "00080018": f"1.2.{i}"} for i in range(25)]
    warning = {"Warning": '299 pacs: "There are more results that can be requested"'}

    def answer(path: str, query: dict[str, list[str]]) -> Reply:
        if path == "/studies":
            return rows({"0020000D": STUDY})
        if not path.endswith("/instances"):
            return Reply(404)
        first = int(query["offset"][0])
        page = rows(*every[first : first + 10])
        if first + 10 < len(every):
            page.headers |= warning if says == "Warning" else {}
            page.status = 200 if says == "Warning" else 206
        return page

    pacs.answer = answer
    assert fetch(tmp_path, pacs.url).n_wanted == 25
    assert len(pacs.requests) == 2 + 3 + 25


def test_a_listing_that_comes_whole_each_time_in_another_order_comes_to_its_end(
    pacs: FaultyPacs, tmp_path: Path
) -> None:
    every = [{"0020000E": "1.2", "00080018": f"1.2.{i}"} for i in range(250)]

    def answer(path: str, _: dict[str, list[str]]) -> Reply:
        if path == "/studies":
            return rows({"0020000D": STUDY})
        if not path.endswith("/instances"):
            return Reply(404)
        every.append(every.pop(0))
        return rows(*every) if len(pacs.requests) < 10 else Reply(500)

    pacs.answer = answer
    report = fetch(tmp_path, pacs.url)
    assert (report.n_wanted, report.failed, report.unlisted) == (250, {Failure.GONE: 250}, {})


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
