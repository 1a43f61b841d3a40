"""The folder where a site's index and decoded images are kept between runs.

It holds patient data (identifiers in the index, pixels in the images), so it belongs on the
hospital's own disk and only its owner can read it.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from metaward.errors import ConfigError

CODE_VERSION = 10
"""Raise when reading, decoding or resizing changes what it gives for the same file."""

_READERS = (
    "numpy",
    "pillow",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-libjpeg",  # only where somebody installed it
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "python-gdcm",
)


def cache_folder(root: Path, base: Path | None) -> Path:
    """Make and return the cache folder of a data root.

    Args:
        root: The site's images.
        base: Where caches are kept; by default ``metaward`` in ``$XDG_CACHE_HOME`` or
            ``~/.cache``. Each root has a folder of its own in it, named by a hash.

    Raises:
        ConfigError: The folder cannot be made or written.
    """
    base = base or _default_base()
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    folder = base / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ConfigError(
            "the cache folder cannot be made or written",
            expected="a folder that this user may write, with space for the decoded images",
            where=str(base),
            next_step="Set `cache:` in site.yaml to such a folder.",
        )
    return folder


def _default_base() -> Path:
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a service account without a home
        raise ConfigError(
            "this user has no home folder to keep a cache in",
            expected="a folder that this user may write",
            next_step="Set `cache:` in site.yaml to such a folder.",
        ) from None
    return home / "metaward"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one process at a time; another one waits and then finds the work done."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def readers_digest() -> str:
    """Return a digest of everything that decides how a file is read, apart from settings."""
    parts = [f"metaward-{CODE_VERSION}"]
    parts += [f"{name}-{_version_of(name)}" for name in _READERS]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
