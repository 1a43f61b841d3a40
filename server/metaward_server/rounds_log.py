"""``rounds.jsonl``: one line per closed round."""

import dataclasses
import json
import os
from pathlib import Path

from metaward.progress import RoundEvent


class RoundsLog:
    """Appends one line per round; after a resume no round stands twice.

    A line is on disk before the checkpoint that follows it, so that the log never misses a round
    that a checkpoint has; lines beyond the checkpoint are cut when a run resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: RoundEvent) -> None:
        """Add the round's line and flush it to disk."""
        line = json.dumps(dataclasses.asdict(event), sort_keys=True).encode() + b"\n"
        with self.path.open("ab", buffering=0) as log:
            log.write(line)
            os.fsync(log.fileno())

    def cut_from(self, round_index: int) -> None:
        """Drop the lines of ``round_index`` and later ones, and a half-written last line."""
        kept = b"".join(
            line for line in self._whole_lines() if json.loads(line)["round_index"] < round_index
        )
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("wb") as log:
            log.write(kept)
            log.flush()
            os.fsync(log.fileno())
        temporary.replace(self.path)

    def _whole_lines(self) -> list[bytes]:
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)
        return [line for line in lines if line.endswith(b"\n")]
