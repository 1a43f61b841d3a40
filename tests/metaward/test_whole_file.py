"""A file that is written is whole, or as it was before."""

from pathlib import Path

import pytest

from metaward.whole_file import write_atomically


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
