"""The file with the password or token for a PACS; nobody but its owner may be able to read it."""

import os
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from metaward.errors import ConfigError

LONGEST_FILE = 64 * 2**10
"""Bytes; tokens have a few thousand."""


@dataclass(frozen=True)
class Credentials:
    """A user and a password, or a bearer token; never shown."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


def read_credentials(path: Path) -> Credentials:
    """Read a file with the keys ``user`` and ``password``, or the key ``token``.

    Raises:
        ConfigError: The file is missing, belongs to somebody else, can be read or written by
            others, or does not hold these keys, or no token. Nothing of its content is quoted.
    """
    where = f"data.pacs.credentials ({path})"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"the file cannot be opened ({os.strerror(error.errno or 0)})",
            expected="a file with user and password, or a token, for the PACS",
            where=where,
            next_step="Make the file, or correct data.pacs.credentials.",
        ) from None
    try:
        _require_private(os.fstat(descriptor), path, where)
        content = os.read(descriptor, LONGEST_FILE)
    finally:
        os.close(descriptor)
    keys = _mapping(content)
    if keys.keys() not in ({"user", "password"}, {"token"}):
        raise ConfigError(
            "not the keys that are needed, or a value that is no text",
            expected="lines `user: …` and `password: …`, or a line `token: …`; values in quotes",
            where=where,
            next_step="Correct the file.",
        )
    if not _is_token(keys.get("token", "")):
        raise ConfigError(
            "a token with a blank, a line end, or a letter that is not ASCII",
            expected="the token alone, as it was given out, on the line `token: …`",
            where=where,
            next_step="Correct the file.",
        )
    return Credentials(**keys)


def _require_private(status: os.stat_result, path: Path, where: str) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        problem, step = "not a regular file", "Name a file."
    elif status.st_uid != os.geteuid():
        problem, step = "the file belongs to another user", f"Run: chown $USER {quoted}"
    elif stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        problem, step = f"mode {mode:04o}: others may use the file", f"Run: chmod 600 {quoted}"
    else:
        return
    expected = "a file of mode 0600 that belongs to the user who runs this"
    raise ConfigError(problem, expected=expected, where=where, next_step=step)


def _is_token(text: str) -> bool:
    """Say whether a text can stand in a header as a token (RFC 6750, 2.1: printable, no blanks)."""
    return text.isascii() and text.isprintable() and " " not in text


def _mapping(content: bytes) -> dict[str, str]:
    """Return the keys of the file; nothing where it is something else."""
    try:
        keys = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):  # their texts quote the file
        return {}
    if not isinstance(keys, dict):
        return {}
    if not all(isinstance(part, str) and part for item in keys.items() for part in item):
        return {}
    return keys
