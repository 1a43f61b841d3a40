"""Paths that a settings file names: from its folder, with ``~``, and through links."""

import os
from pathlib import Path

from metaward.errors import ConfigError


def from_folder(folder: Path, named: Path) -> Path:
    """Return a path that a settings file in ``folder`` names; no link is followed.

    Raises:
        ConfigError: It begins with ``~`` and a user whom this machine does not know.
    """
    try:
        return folder / named.expanduser()
    except RuntimeError:
        raise ConfigError(
            f"'{named}' begins with the home folder of a user who is not known here",
            expected="an absolute path, or one that starts at the folder of the settings file",
            where=str(folder),
            next_step="Write the path in full.",
        ) from None


def real_path(path: Path) -> Path:
    """Return an absolute path with all links followed.

    Where links lead to one another the path is returned too, and cannot be opened: who opens it
    says so. ``Path.resolve`` raises a RuntimeError then, in some versions of Python.
    """
    return Path(os.path.realpath(path))
