"""The loss at the hospitals, for whoever watches a simulation.

It is read from the hospitals' own logs, which a simulation may do and a coordinator may not:
losses never leave a hospital.
"""

import json
from pathlib import Path


class SiteLosses:
    """Mean loss over sites, round by round, from ``sites/<name>.jsonl`` of a running study.

    Reads only what was appended since the last call.

    Args:
        folder: Holds one log per site.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_until: dict[Path, int] = {}
        self._losses: dict[int, dict[str, float]] = {}

    def mean(self, round_index: int) -> float | None:
        """Return the mean over the sites that logged a loss in this round, or None."""
        self._read_new_lines()
        losses = self._losses.get(round_index)
        return sum(losses.values()) / len(losses) if losses else None

    def _read_new_lines(self) -> None:
        for log in sorted(self._folder.glob("*.jsonl")):
            with log.open("rb") as file:
                file.seek(self._read_until.get(log, 0))
                fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._read_until[log] = self._read_until.get(log, 0) + len(whole)
            for line in whole.splitlines():
                entry = json.loads(line)
                if entry.get("loss") is not None:
                    self._losses.setdefault(entry["round_index"], {})[log.stem] = entry["loss"]
