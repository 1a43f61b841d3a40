import errno
from io import BytesIO
from pathlib import Path

import pytest

from dicom_factory import TRANSFER_SYNTAXES, uid_of, write_dicom
from metaward.errors import ConfigError, DataError
from metaward_client.pacs import landing as landing_module
from metaward_client.pacs.archive import NotFetched
from metaward_client.pacs.failures import Failure
from metaward_client.pacs.landing import (
    BoundedWriter,
    Landing,
    fetched_folder,
    file_name,
    incoming_folder,
    open_landing,
)


def image(tmp_path: Path, name: str = "a", syntax: str = "explicit") -> bytes:
    return write_dicom(path=tmp_path / "made" / name, transfer_syntax=syntax).read_bytes()


def receive(landing: Landing, name: str, content: bytes) -> None:
    with landing.receive(uid_of(name)) as sink:
        sink.write(content[:100])
        sink.write(content[100:])


def receive_half(landing: Landing, error: BaseException) -> None:
    with landing.receive(uid_of("a")) as sink:
        sink.write(b"half")
        raise error


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.name != "lock")


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "deflated", "big", "rle"])
def test_a_file_lands_under_a_hash_and_is_known_from_then_on(tmp_path: Path, syntax: str) -> None:
    assert syntax in TRANSFER_SYNTAXES
    root, content = tmp_path / "root", image(tmp_path, syntax=syntax)
    with open_landing(root) as landing:
        assert not landing.has(uid_of("a"))
        receive(landing, "a", content)
        assert landing.has(uid_of("a"))
    name = file_name(uid_of("a"))
    assert uid_of("a") not in name
    assert (fetched_folder(root) / name[:2] / name).read_bytes() == content
    with open_landing(root) as landing:
        assert landing.has(uid_of("a"))


def test_before_it_is_complete_nothing_is_where_a_scan_looks(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with open_landing(root) as landing, landing.receive(uid_of("a")) as sink:
        sink.write(image(tmp_path))
        assert not list(fetched_folder(root).glob("??"))


@pytest.mark.parametrize("error", [NotFetched(Failure.GONE), KeyboardInterrupt(), ValueError()])
def test_a_file_that_does_not_come_to_its_end_leaves_nothing(
    tmp_path: Path, error: BaseException
) -> None:
    root = tmp_path / "root"
    with open_landing(root) as landing:
        with pytest.raises(type(error)):
            receive_half(landing, error)
        assert not landing.has(uid_of("a"))
    assert files(root) == []


def test_what_a_killed_fetch_left_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with open_landing(root):
        pass
    (incoming_folder(root) / "x.dcm.part").write_bytes(b"half")
    with open_landing(root):
        assert files(root) == []


@pytest.mark.parametrize(
    ("content", "failure"),
    [
        (b"<html>", Failure.NOT_DICOM),
        (b"", Failure.NOT_DICOM),
        (b"\0" * 128 + b"DICM" + b"\xff" * 200, Failure.NOT_DICOM),
    ],
    ids=["html", "empty", "damaged"],
)
def test_what_is_not_dicom_is_refused(tmp_path: Path, content: bytes, failure: Failure) -> None:
    with open_landing(tmp_path / "root") as landing:
        with pytest.raises(NotFetched) as caught:
            receive(landing, "a", content)
        assert caught.value.failure is failure
    assert files(tmp_path / "root") == []


def test_another_instance_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    with open_landing(tmp_path / "root") as landing:
        with pytest.raises(NotFetched) as caught:
            receive(landing, "b", image(tmp_path, "a"))
        assert caught.value.failure is Failure.OTHER_INSTANCE
    assert files(tmp_path / "root") == []


def test_a_file_that_does_not_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing_module, "LARGEST_FILE", 200)
    with open_landing(tmp_path / "root") as landing:
        with pytest.raises(NotFetched) as caught:
            receive(landing, "a", image(tmp_path))
        assert caught.value.failure is Failure.TOO_LARGE
    assert files(tmp_path / "root") == []


class FullDisk(BytesIO):
    def write(self, *_: object) -> int:
        raise OSError(errno.ENOSPC, "text of the system", "secret")


def test_a_full_disk_is_one_sentence_of_whoever_writes(tmp_path: Path) -> None:
    writer = BoundedWriter(FullDisk(), tmp_path)
    with pytest.raises(DataError, match=r"No space left on device.*Free space") as caught:
        writer.write(b"half")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.replace"])
def test_a_disk_that_fails_later_is_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(fails, FullDisk().write)
    with open_landing(tmp_path / "root") as landing:
        with pytest.raises(DataError, match=r"No space left on device.*Free space"):
            receive(landing, "a", image(tmp_path))
        assert not landing.has(uid_of("a"))
    assert files(tmp_path / "root") == []


def test_a_disk_that_became_read_only_is_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "text of the system", "secret")

    monkeypatch.setattr("os.fsync", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with (
        open_landing(tmp_path / "root") as landing,
        pytest.raises(DataError, match="Read-only file system"),
    ):
        receive(landing, "a", image(tmp_path))


def test_two_fetches_of_one_site_do_not_run_at_once(tmp_path: Path) -> None:
    with (
        open_landing(tmp_path / "root"),
        pytest.raises(DataError, match="another fetch"),
        open_landing(tmp_path / "root"),
    ):
        pass
    with open_landing(tmp_path / "root"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_before_the_first_image_is_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, "text of the system", "secret")

    monkeypatch.setattr(Path, "mkdir", refused)
    with (
        pytest.raises(DataError, match=r"cannot be written \(.*Free space"),
        open_landing(tmp_path / "root"),
    ):
        pass


def test_a_root_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"), open_landing(tmp_path / "file"):
        pass
