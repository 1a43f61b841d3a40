"""Why a study ended before its time, in its own folder: one sentence for the coordinator's people.

Only our own errors are written; they hold no patient data, and the coordinator has none.
"""

from pathlib import Path

from metaward.errors import MetawardError
from metaward.whole_file import write_atomically

FAILURE_FILE = "failure.txt"


def write_failure(run_dir: Path, error: MetawardError) -> None:
    """Write the error's sentence."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / FAILURE_FILE, f"{error}\n")


def read_failure(run_dir: Path) -> str:
    """Return the sentence, or nothing where there is none."""
    path = run_dir / FAILURE_FILE
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def clear_failure(run_dir: Path) -> None:
    """Forget an earlier failure."""
    (run_dir / FAILURE_FILE).unlink(missing_ok=True)
