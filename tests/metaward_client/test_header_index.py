import os
import sqlite3
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from dicom_factory import write_dicom
from metaward.errors import DataError
from metaward_client.dicom import cache_folder, header_index, header_reading
from metaward_client.dicom.header import Header
from metaward_client.dicom.header_index import DATABASE, HeaderIndex, index_headers
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.dicom.walk import walk_files


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five images in a nested tree, without extensions, and a text file."""
    for i in range(5):
        write_dicom(path=tmp_path / "tree" / f"a{i % 2}" / "b" / f"IM{i}", patient_id=f"p{i}")
    (tmp_path / "tree" / "notes.dcm").write_text("not an image")
    return tmp_path / "tree"


def _patients(index: HeaderIndex) -> list[str]:
    return [f.outcome.patient_id for f in index.files if isinstance(f.outcome, Header)]


def test_files_are_found_by_content_at_any_depth(tree: Path, cache: Path) -> None:
    index = index_headers(tree, cache)
    assert sorted(_patients(index)) == ["p0", "p1", "p2", "p3", "p4"]
    assert [f.outcome for f in index.files if not isinstance(f.outcome, Header)] == [
        RefusalReason.NOT_DICOM
    ]
    assert index.n_read == 6


def test_a_second_scan_reads_no_header(
    tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_headers(tree, cache)

    def fail(path: str) -> None:
        pytest.fail("a header was read")

    monkeypatch.setattr(header_reading, "read_header", fail)
    second = index_headers(tree, cache)
    assert second.files == first.files
    assert second.n_read == 0


def test_only_what_changed_is_read_again(tree: Path, cache: Path) -> None:
    index_headers(tree, cache)
    write_dicom(path=tree / "a0/b/IM0", patient_id="other")
    write_dicom(path=tree / "new", patient_id="p9")
    (tree / "a1/b/IM1").unlink()
    index = index_headers(tree, cache)
    assert sorted(_patients(index)) == ["other", "p2", "p3", "p4", "p9"]
    assert index.n_read == 2


def test_a_touched_file_is_read_again(tree: Path, cache: Path) -> None:
    index_headers(tree, cache)
    os.utime(tree / "a0/b/IM0", ns=(1, 1))
    assert index_headers(tree, cache).n_read == 1


@pytest.mark.parametrize("damage", [b"not a database at all, but long enough to look", b""])
def test_a_damaged_index_is_made_anew(tree: Path, cache: Path, damage: bytes) -> None:
    index_headers(tree, cache)
    (cache / DATABASE).write_bytes(damage * 100)
    assert len(_patients(index_headers(tree, cache))) == 5


def test_an_index_of_other_versions_is_made_anew(tree: Path, cache: Path) -> None:
    index_headers(tree, cache)
    database = sqlite3.connect(cache / DATABASE)
    database.execute("PRAGMA user_version = 7")
    database.close()
    assert index_headers(tree, cache).n_read == 6


def test_a_decoder_that_is_installed_later_has_the_headers_read_anew(
    tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert index_headers(tree, cache).n_read == 6

    def with_libjpeg(name: str) -> str:
        return "99.0" if name == "pylibjpeg-libjpeg" else version(name)

    monkeypatch.setattr(cache_folder, "version", with_libjpeg)
    assert index_headers(tree, cache).n_read == 6


def test_the_index_can_be_read_by_its_owner_only(tree: Path, cache: Path) -> None:
    index_headers(tree, cache)
    assert (cache / DATABASE).stat().st_mode & 0o077 == 0


def test_a_folder_is_found_below_each_folder_of_the_root_that_links_to_it(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "a0" / "b").rename(tmp_path / "shared")
    for name in ("a0/b", "a0/c", "a1/c"):
        (tree / name).symlink_to(tmp_path / "shared")
    paths = [file.path for file in walk_files(tree).files if file.path.endswith("IM0")]
    assert [path.split("/")[0] for path in paths] == ["a0", "a1"]


def test_loops_of_links_end_and_each_folder_is_entered_once(tree: Path, cache: Path) -> None:
    (tree / "a0" / "up").symlink_to(tree)
    (tree / "a0" / "b" / "here").symlink_to(tree / "a0" / "b")
    (tree / "self").symlink_to(tree / "self")
    (tree / "dangling").symlink_to(tree / "nowhere")
    index = index_headers(tree, cache)
    assert len(_patients(index)) == 5
    assert index.unreadable == 2


def test_names_that_are_not_utf8_are_indexed_and_known_again(tree: Path, cache: Path) -> None:
    source = (tree / "a0/b/IM0").read_bytes()
    Path(os.fsdecode(os.fsencode(tree) + b"/M\xfcller")).write_bytes(source)
    assert len(_patients(index_headers(tree, cache))) == 6
    assert index_headers(tree, cache).n_read == 0


def test_pipes_are_left_out(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    assert "pipe" not in [file.path for file in walk_files(tree).files]


def test_what_is_left_out_is_left_out_under_a_link_too(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "a0")
    left = walk_files(tree, leave_out=frozenset({tree / "a0", tree / "notes.dcm"})).files
    assert [file.path for file in left] == ["a1/b/IM1", "a1/b/IM3"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_folder_is_counted(tree: Path, cache: Path) -> None:
    (tree / "a0").chmod(0)
    try:
        assert index_headers(tree, cache).unreadable == 1
    finally:
        (tree / "a0").chmod(0o700)


def test_workers_find_what_one_process_finds(
    tree: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = index_headers(tree, cache, workers=1)
    monkeypatch.setattr(header_index, "WORTH_A_POOL", 1)
    other = tmp_path / "other"
    other.mkdir()
    assert index_headers(tree, other, workers=2).files == alone.files


def test_progress_counts_up_to_all_files(tree: Path, cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    index_headers(tree, cache, on_progress=lambda *step: told.append(step))
    assert told[0] == ("headers", 0, 6)
    assert told[-1] == ("headers", 6, 6)


def test_an_empty_folder_has_an_empty_index(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert index_headers(tmp_path / "empty", cache).files == ()


def test_a_number_of_frames_that_no_database_can_hold_stops_no_scan(
    tmp_path: Path, cache: Path
) -> None:
    path = write_dicom(
        path=tmp_path / "tree" / "a", transfer_syntax="rle", n_frames=1,
        pixels=np.zeros((1, 16, 16), dtype=np.uint16),
    )  # fmt: skip
    write_dicom(path=tmp_path / "tree" / "b")
    element = b"\x28\x00\x08\x00IS"
    path.write_bytes(
        path.read_bytes().replace(element + b"\x02\x001 ", element + b"\x14\x00" + b"9" * 20)
    )
    assert b"9" * 20 in path.read_bytes()
    index = index_headers(tmp_path / "tree", cache)
    assert len(index.files) == 2
    assert isinstance(index.files[1].outcome, Header)


def test_an_index_that_the_disk_fails_to_give_is_kept(
    tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_headers(tree, cache)
    before = (cache / DATABASE).read_bytes()
    with monkeypatch.context() as patched:

        def failing(path: Path) -> sqlite3.Connection:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
            raise error

        patched.setattr(header_index, "_prepared", failing)
        with pytest.raises(DataError, match="disk I/O error"):
            index_headers(tree, cache)
    assert (cache / DATABASE).read_bytes() == before
    assert index_headers(tree, cache).n_read == 0
