"""``rounds.jsonl``: one line per closed round."""

import dataclasses
import errno
import json
import os
from pathlib import Path

from metaward.errors import FederationError
from metaward.progress import RoundEvent


class RoundsLog:
    """Appends one line per round; after a resume no round stands twice.

    A line is on disk before the checkpoint that follows it, so that the log never misses a round
    that a checkpoint has; lines beyond the checkpoint are cut when a run resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: RoundEvent) -> None:
        """Add the round's line, whole or not at all, and flush it to disk.

        Raises:
            OSError: The disk does not take it; ``ENOSPC`` where it takes a part.
        """
        line = json.dumps(dataclasses.asdict(event), sort_keys=True).encode() + b"\n"
        with self.path.open("ab", buffering=0) as log:
            before = log.tell()
            if log.write(line) < len(line):
                log.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(log.fileno())

    def cut_from(self, round_index: int) -> None:
        """Drop the lines of ``round_index`` and later ones, and a half-written last line.

        A line that cannot be read is dropped too, if every round before has one that can.

        Raises:
            FederationError: It may be the line of a round that counts.
        """
        lines = self._whole_lines()
        rounds = [_round_of(line) for line in lines]
        if None in rounds and not set(range(round_index)) <= set(rounds):
            raise self._unreadable(rounds.index(None) + 1, round_index)
        kept = b"".join(
            line
            for line, index in zip(lines, rounds, strict=True)
            if index is not None and index < round_index
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

    def _unreadable(self, number: int, n_rounds: int) -> FederationError:
        return FederationError(
            f"line {number} cannot be read",
            expected=f"one line of JSON for each of the {n_rounds} closed rounds",
            where=str(self.path),
            next_step="Put the line right from a copy, or delete it, and resume: the study goes on "
            "as it would have, but its report and its model's card will not know of that round.",
        )


def _round_of(line: bytes) -> int | None:
    """Return the round that a line is of; nothing where it cannot be read."""
    try:
        index = json.loads(line)["round_index"]
    except (ValueError, KeyError, TypeError):
        return None
    return index if isinstance(index, int) else None
