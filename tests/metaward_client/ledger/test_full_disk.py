"""A disk that is really full or read-only releases nothing, and loses nothing of what was spent."""

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from ledger_place import BUDGET, TERMS, A, Place, new_place, reserved

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import Ledger, RoundId, read_ledger
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.snapshot import verify_ledger

FIRST = RoundId(A, 0)


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


def test_a_file_that_may_not_grow_releases_nothing(place: Place) -> None:
    """RLIMIT_FSIZE, which needs no root; in a process of its own."""
    place.play([FIRST])
    script = (
        "import resource, signal, sys; sys.path.append(sys.argv[1])\n"
        "from pathlib import Path; from ledger_place import *\n"
        "place = Place(Path(sys.argv[2]), Path(sys.argv[3]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (place.file.stat().st_size + 100,) * 2)\n"
        "place.play([RoundId(A, 1)])\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", script, here, str(place.ledger), str(place.witness)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "the file may not grow" in done.stderr
    with place.open() as ledger:
        assert len(ledger.state.releases) == 1
        assert b'"kind":"cut","payload":{"bytes":100}' in place.file.read_bytes()
