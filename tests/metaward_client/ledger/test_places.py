"""Where a ledger may be, who may own it, and how it is made."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from ledger_faults import FaultyDisk
from ledger_place import BUDGET, TERMS, TOY, A, Place, new_place, reserved

from metaward.errors import ConfigError, PrivacyError
from metaward_client.privacy.ledger import Ledger, RoundId, read_ledger
from metaward_client.privacy.ledger.by_a_person import raise_budget
from metaward_client.privacy.ledger.durable import Disk
from metaward_client.privacy.ledger.snapshot import verify_ledger
from metaward_client.privacy.ledger.witness import default_witness
from metaward_client.privacy.terms import Budget

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


# --- a disk that is really full, and one that is really read-only --------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 pages."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def answer_rounds(ledger: Ledger, indices: Iterable[int]) -> None:
    for index in indices:
        answer = reserved(ledger.reserve(RoundId(A, index), TERMS, BUDGET))
        ledger.commit(answer, b"x" * 8192)


def test_a_full_disk_releases_nothing_and_loses_nothing(small_disk: Path) -> None:
    place = new_place(small_disk)
    sent = place.play([FIRST])
    filler = small_disk / "filler"
    fill(filler)
    with place.open(Disk()) as ledger, pytest.raises(PrivacyError, match="the disk is full"):
        answer_rounds(ledger, range(1, 6))  # the last page of the file may have room for a line
    filler.unlink()
    assert place.play([FIRST]) == sent
    place.play([RoundId(A, index) for index in range(1, 6)])
    state = verify_ledger(place.ledger, place.witness, clock=place.clock)
    assert [release.round.round_index for release in state.releases] == list(range(6))


def test_a_read_only_disk_can_be_read_and_releases_nothing(small_disk: Path) -> None:
    place = new_place(small_disk)
    place.play([FIRST])
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    assert read_ledger(place.ledger, place.witness, clock=place.clock).entries == 5
    with pytest.raises(PrivacyError, match="the disk is read-only"), place.open():
        pass


def test_a_file_that_may_not_grow_releases_nothing(used: Place) -> None:
    """RLIMIT_FSIZE, which needs no root; in a process of its own."""
    script = (
        "import resource, signal, sys; sys.path.append(sys.argv[1])\n"
        "from pathlib import Path; from ledger_place import *\n"
        "place = Place(Path(sys.argv[2]), Path(sys.argv[3]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (place.file.stat().st_size + 100,) * 2)\n"
        "place.play([RoundId(A, 1)])\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", script, here, str(used.ledger), str(used.witness)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "the file may not grow" in done.stderr
    with used.open() as ledger:
        assert len(ledger.state.releases) == 1
        assert b'"kind":"cut","payload":{"bytes":100}' in used.file.read_bytes()


# --- making a ledger ------------------------------------------------------------------------------


def test_a_ledger_is_made_with_folders_for_this_user_alone(tmp_path: Path) -> None:
    place = Place(tmp_path / "a/b/ledger", tmp_path / "c/d/witness")
    old = os.umask(0)
    try:
        place.create(Disk())
    finally:
        os.umask(old)
    for path in (place.ledger, place.ledger / "replies", place.witness):
        assert path.stat().st_mode & 0o7777 == 0o700
    for path in (place.file, place.witness / "key", place.witness / "head"):
        assert path.stat().st_mode & 0o7777 == 0o600
    assert len((place.witness / "key").read_bytes()) == 32


def test_two_ledgers_have_different_keys_and_names(tmp_path: Path) -> None:
    places = [Place(tmp_path / n / "ledger", tmp_path / n / "witness") for n in "ab"]
    for place in places:
        place.create()
    assert len({(place.witness / "key").read_bytes() for place in places}) == 2
    states = [read_ledger(place.ledger, place.witness, clock=place.clock) for place in places]
    assert len({state.ledger for state in states}) == 2


def test_a_ledger_that_stands_is_not_made_anew(used: Place) -> None:
    before = used.file.read_bytes()
    with pytest.raises(PrivacyError, match="a ledger stands here already"):
        used.create()
    assert used.file.read_bytes() == before


def test_a_ledger_that_was_deleted_is_not_made_anew(used: Place) -> None:
    shutil.rmtree(used.ledger)
    with pytest.raises(PrivacyError, match="the witness of a ledger that is gone"):
        used.create()
    refused(used, "it is missing")


def test_a_ledger_that_was_deleted_is_not_made_anew_beside_the_default_witness(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "ledger"
    Ledger.create(folder, None, BUDGET)
    with Ledger.open(folder, accountant=TOY) as ledger:
        ledger.reserve(FIRST, TERMS, BUDGET)
    shutil.rmtree(folder)
    with pytest.raises(PrivacyError, match="the witness of a ledger that is gone"):
        Ledger.create(folder, None, BUDGET)


def test_a_ledger_of_which_only_the_budget_was_raised_is_not_made_anew_either(place: Place) -> None:
    more = Budget(9.0, BUDGET.target_delta)
    raise_budget(place.ledger, place.witness, more, "the board agreed", clock=place.clock)
    shutil.rmtree(place.ledger)
    with pytest.raises(PrivacyError, match="the witness of a ledger that is gone"):
        place.create()


def test_a_derived_key_is_of_one_ledger_and_purpose_and_stays(tmp_path: Path) -> None:
    """Which block a patient is in hangs on it."""
    keys = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        place = new_place(tmp_path / name)
        for _ in range(2):
            with place.open() as ledger:
                keys |= {ledger.derived_key(b"blocks"), ledger.derived_key(b"another")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize("part", ["ledger", "witness"])
def test_a_ledger_is_not_made_in_a_folder_that_others_may_use(tmp_path: Path, part: str) -> None:
    (tmp_path / part).mkdir(mode=0o755)
    place = Place(tmp_path / "ledger", tmp_path / "witness")
    with pytest.raises(PrivacyError, match="open to other users"):
        place.create()
    assert not place.file.exists()


@pytest.mark.parametrize("part", ["ledger", "witness"])
def test_a_ledger_is_not_made_through_a_symbolic_link(tmp_path: Path, part: str) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / part).symlink_to(tmp_path / "real")
    with pytest.raises(PrivacyError, match="a symbolic link"):
        Place(tmp_path / "ledger", tmp_path / "witness").create()


@pytest.mark.parametrize("witness", ["ledger", "ledger/witness", ".", "ledger/../ledger/deep"])
def test_ledger_and_witness_are_not_in_one_folder(tmp_path: Path, witness: str) -> None:
    place = Place(tmp_path / "ledger", tmp_path / witness)
    with pytest.raises(ConfigError, match="are in one folder"):
        place.create()
    with pytest.raises(ConfigError, match="are in one folder"), place.open():
        pass


def test_the_default_witness_is_in_the_users_state_and_named_after_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    one, other = default_witness(tmp_path / "one"), default_witness(tmp_path / "other")
    assert one.parent == other.parent == tmp_path / "state/metaward/ledgers"
    assert one != other
    monkeypatch.chdir(tmp_path)
    assert default_witness(Path("one")) == one
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_witness(tmp_path / "one").is_relative_to(tmp_path / "home/.local/state")


def test_a_user_without_a_home_is_asked_to_name_a_witness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match=r"privacy\.witness"):
        default_witness(tmp_path / "ledger")
