"""A file that is written is whole, or as it was before."""

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from metaward.whole_file import write_atomically, write_new

KILLED_AFTER_4_KIB = """
import resource, signal, sys
from pathlib import Path
from metaward.whole_file import write_new
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which kills, as the kernel does
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_new(Path(sys.argv[1]), bytes(2**20))
"""


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "report.json", "old")

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("metaward.whole_file.os.fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "report.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


def test_a_process_that_is_killed_while_it_writes_leaves_no_part_under_the_files_name(
    tmp_path: Path,
) -> None:
    out = tmp_path / "new.csv"
    done = subprocess.run([sys.executable, "-c", KILLED_AFTER_4_KIB, out], check=False)
    assert done.returncode == -signal.SIGXFSZ
    assert not out.exists()
    write_new(out, b"whole")
    assert out.read_bytes() == b"whole"


def test_a_new_file_is_closed_to_others_and_never_in_the_place_of_another(tmp_path: Path) -> None:
    out = tmp_path / "new.csv"
    write_new(out, b"first")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError) as caught:
        write_new(out, b"second")
    assert caught.value.filename == str(out)
    assert out.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_a_new_file_that_cannot_be_written_is_not_there_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metaward.whole_file.os.fsync", broken)
    with pytest.raises(OSError, match="No space") as caught:
        write_new(tmp_path / "new.csv", b"new")
    assert caught.value.filename == str(tmp_path / "new.csv")
    assert list(tmp_path.iterdir()) == []
