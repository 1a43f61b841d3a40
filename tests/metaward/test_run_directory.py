"""A folder that a command makes: filled to the end, or not there."""

import errno
from pathlib import Path

import pytest

from metaward.run_directory import fresh_folder


def begun(path: Path, ended_by: BaseException) -> None:
    with fresh_folder(path) as folder:
        (folder / "below").mkdir()
        (folder / "below" / ".half").write_text("written")
        (folder / "whole.txt").write_text("written")
        raise ended_by


@pytest.mark.parametrize("ended_by", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_folder_that_was_not_filled_to_the_end_is_taken_away_with_what_is_in_it(
    ended_by: BaseException, tmp_path: Path
) -> None:
    with pytest.raises(type(ended_by)):
        begun(tmp_path / "new", ended_by)
    assert list(tmp_path.iterdir()) == []


def test_what_was_filled_to_the_end_stays(tmp_path: Path) -> None:
    with fresh_folder(tmp_path / "new") as folder:
        (folder / "whole.txt").write_text("written")
    assert (tmp_path / "new" / "whole.txt").read_text() == "written"
