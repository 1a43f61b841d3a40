"""Keep a benchmark's figures: JSON beside the table, with what it takes to get them again."""

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from metaward.provenance import commit, machine, versions
from metaward.whole_file import write_atomically

OUT = Path(__file__).parent / "out"


def device_name(device: str) -> str:
    """Return what the figures were made on: "cpu", or the name of an accelerator.

    Loads torch, and starts the accelerator.
    """
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def save(script: str, results: dict[str, Any], *, quiet: bool = False) -> None:
    """Write ``out/NAME.json`` for the script ``bench_NAME.py``."""
    write(_of(script), results, quiet=quiet)


def saved(script: str) -> dict[str, Any] | None:
    """Return what ``save`` wrote before, with its commit; None: nothing."""
    path = _of(script)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _of(script: str) -> Path:
    return OUT / f"{Path(script).stem.removeprefix('bench_')}.json"


def write(path: Path, results: dict[str, Any], *, quiet: bool = False) -> None:
    """Write the results to a file, with command, date, machine, commit and versions.

    Args:
        path: Replaced, and its folder made where there is none.
        results: Anything that JSON can say.
        quiet: Print nothing; for figures that are written again after each run of many.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "results": results,
    }
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    if not quiet:
        Console().print(f"Written: {path}", soft_wrap=True)
