"""What it takes to get the same figures again: versions, commit, machine."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPORTED = ("metaward", "flwr", "numpy", "torch", "pydicom")
"""Distributions whose version changes results."""

GIT_TIMEOUT_S = 5.0
NO_COMMIT = "unknown (not run from a git checkout)"


def versions() -> dict[str, str]:
    """Return the installed versions that matter, Python's own with them."""
    found = {"python": platform.python_version()}
    for name in REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(source: Path = Path(__file__)) -> str:
    """Return the commit that ``source`` is at, with ``+changes`` where tracked files differ.

    A file that git does not track has no commit, even where a folder above it is a checkout: a
    release installed inside somebody's project is not that project.
    """
    folder = source.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", source.name) is None:
        return NO_COMMIT
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return NO_COMMIT
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return head + ("+changes" if changes else "")


def machine() -> str:
    """Return processor, cores that may be used, and operating system; never the host's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {platform.machine()}, {platform.system()}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            ["git", "-C", str(folder), *arguments],  # noqa: S607 (the user's own git)
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
