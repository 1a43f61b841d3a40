"""Secrets on the disk: closed to others, never overwritten, refused when they are open."""

import os
import stat
from pathlib import Path

import pytest

from metaward.errors import ConfigError
from metaward.private_file import make_private_folder, require_private, write_private


def test_a_secret_is_written_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        write_private(path, b"secret")
        make_private_folder(tmp_path / "folder")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["key"]
    require_private(path)


def test_a_secret_is_never_overwritten(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"old")
    with pytest.raises(ConfigError, match="never overwritten"):
        write_private(tmp_path / "key", b"new")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_secret_left_half_written_by_a_crash_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / ".key.new").write_bytes(b"ha")
    write_private(tmp_path / "key", b"whole")
    assert (tmp_path / "key").read_bytes() == b"whole"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_may_read_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "the key"
    write_private(path, b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600 '{path}'"):
        require_private(path)


def test_a_link_a_folder_and_a_missing_file_are_no_secrets(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    (tmp_path / "folder").mkdir()
    for name, found in (("link", "not a plain file"), ("folder", "not a plain"), ("no", "no such")):
        with pytest.raises(ConfigError, match=found):
            require_private(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_no_secret_of_ours(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"secret")
    os.chown(tmp_path / "key", 1, 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        require_private(tmp_path / "key")
