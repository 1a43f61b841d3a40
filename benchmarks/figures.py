"""Keep a benchmark's figures: JSON beside the table, with what it takes to get them again."""

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from metaward.provenance import commit, machine, versions

OUT = Path(__file__).parent / "out"


def save(script: str, results: dict[str, Any]) -> None:
    """Write ``out/NAME.json`` for the script ``bench_NAME.py``."""
    write(OUT / f"{Path(script).stem.removeprefix('bench_')}.json", results)


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the results to a file, with command, date, machine, commit and versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "results": results,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    Console().print(f"Written: {path}", soft_wrap=True)
