import os
from pathlib import Path

import pytest

from metaward.errors import ConfigError
from metaward_client.pacs.credentials import Credentials, read_credentials

SECRET = "hunter2"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_user_and_a_password_or_a_token_are_read(tmp_path: Path) -> None:
    both = write(tmp_path / "both", 'user: anna\npassword: "ü: #"\n')
    assert read_credentials(both) == Credentials(user="anna", password="ü: #")
    token = write(tmp_path / "token", "token: abc.def\n", 0o400)
    assert read_credentials(token) == Credentials(token="abc.def")


def test_they_are_not_shown() -> None:
    assert SECRET not in repr(Credentials(SECRET, SECRET, SECRET))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "c d", f"user: a\npassword: {SECRET}\n", mode)
    refused = f"mode {mode:04o}: others may use the file.*chmod 600 '{path}'"
    with pytest.raises(ConfigError, match=refused):
        read_credentials(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c", f"user: a\npassword: {SECRET}\n")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        read_credentials(path)


@pytest.mark.parametrize(
    "text",
    [
        f"user: {SECRET}",
        f"user: a\npassword: {SECRET}\nhost: b",
        f"user: a\npassword: {SECRET}\ntoken: c",
        f"user: [{SECRET}]\npassword: b",
        "user: a\npassword: 1234",
        "user: a\npassword: ''",
        f"- {SECRET}",
        f"{SECRET}: [",
        "",
    ],
)
def test_what_a_wrong_file_holds_is_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="not the keys that are needed") as caught:
        read_credentials(write(tmp_path / "c", text))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text", [f"|\n  {SECRET}\n", f"Bearer {SECRET}", f'"{SECRET}\u201d"', f'"{SECRET}\\t"']
)
def test_what_can_be_no_token_is_refused_here_and_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="a token with a blank, a line end") as caught:
        read_credentials(write(tmp_path / "c", f"token: {text}"))
    assert SECRET not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be opened.*No such file"):
        read_credentials(tmp_path / "gone")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_credentials(tmp_path)
