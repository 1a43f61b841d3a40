"""Where a ledger may be, and who may own and use it."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from ledger_faults import FaultyDisk
from ledger_place import BUDGET, TERMS, A, Place

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import RoundId
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.snapshot import verify_ledger

PARTS = [
    "ledger",
    "ledger/ledger.jsonl",
    "ledger/replies",
    "witness",
    "witness/key",
    "witness/head",
]
FILES = [part for part in PARTS if "." in part or part.startswith("witness/")]
FIRST = RoundId(A, 0)


@pytest.fixture
def used(place: Place) -> Place:
    place.play([FIRST])
    return place


def refused(place: Place, match: str) -> None:
    with pytest.raises(PrivacyError, match=match) as refusal, place.open() as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)
    assert refusal.value.exit_code == 4
    assert refusal.value.next_step
    with pytest.raises(PrivacyError, match=match):
        verify_ledger(place.ledger, place.witness, clock=place.clock)


@pytest.mark.parametrize("part", [*PARTS, f"ledger/replies/{A}.0.reply"])
def test_a_symbolic_link_is_refused(used: Place, part: str) -> None:
    path = used.ledger.parent / part
    real = path.with_name("real")
    path.rename(real)
    path.symlink_to(real)
    refused(used, "a symbolic link")


@pytest.mark.parametrize("part", ["ledger", "witness"])
def test_a_link_that_leads_to_itself_is_refused(used: Place, part: str) -> None:
    path = used.ledger.parent / part
    shutil.rmtree(path)
    path.symlink_to(path.name)
    refused(used, "a symbolic link")


def test_a_link_above_the_folders_is_followed(used: Place) -> None:
    link = used.ledger.parent.with_name("link")
    link.symlink_to(used.ledger.parent)
    Place(link / "ledger", link / "witness", used.clock).play([FIRST])


@pytest.mark.parametrize("part", [*FILES, f"ledger/replies/{A}.0.reply"])
def test_a_second_name_of_a_file_is_refused(used: Place, part: str) -> None:
    path = used.ledger.parent / part
    os.link(path, path.with_name("second"))
    refused(used, "a second name")


@pytest.mark.parametrize("mode", [0o640, 0o602, 0o604, 0o610])
@pytest.mark.parametrize("part", [*PARTS, f"ledger/replies/{A}.0.reply"])
def test_what_others_may_use_is_refused(used: Place, part: str, mode: int) -> None:
    path = used.ledger.parent / part
    path.chmod(mode | (0o100 if path.is_dir() else 0))
    refused(used, "open to other users")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("part", [*PARTS, f"ledger/replies/{A}.0.reply"])
def test_what_belongs_to_another_user_is_refused(used: Place, part: str) -> None:
    os.chown(used.ledger.parent / part, 12345, -1)
    refused(used, "belongs to another user")


def test_what_belongs_to_another_user_is_refused_by_anyone(
    used: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refused(used, "belongs to another user")


@pytest.mark.parametrize("part", FILES)
def test_a_folder_in_the_place_of_a_file_is_refused(used: Place, part: str) -> None:
    path = used.ledger.parent / part
    path.unlink()
    path.mkdir(mode=0o700)
    refused(used, "a folder in the place of a file|not a regular file")


@pytest.mark.parametrize("part", FILES)
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(used: Place, part: str) -> None:
    path = used.ledger.parent / part
    path.unlink()
    os.mkfifo(path, 0o600)
    refused(used, "not a regular file")


@pytest.mark.parametrize("part", PARTS)
def test_what_may_not_be_read_is_refused(used: Place, part: str) -> None:
    class Closed(Disk):
        def open(self, path: str | Path, flags: int, folder: int | None = None) -> int:
            if Path(path).name == Path(part).name:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().open(path, flags, folder)

    with pytest.raises(PrivacyError, match="this user may not use it"), used.open(Closed()):
        pass


def test_an_unknown_error_of_the_disk_is_refused_too(used: Place) -> None:
    disk = FaultyDisk(at=1, error=errno.ENOLCK)
    with pytest.raises(PrivacyError, match="No locks available"), used.open(disk):
        pass
