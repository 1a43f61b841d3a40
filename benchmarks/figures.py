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
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{Path(script).stem.removeprefix('bench_')}.json"
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
