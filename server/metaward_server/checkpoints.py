"""Checkpoints of a study: written whole or not at all, verified when read.

checkpoints/round-000012/
    theta.safetensors     meta-parameters after 12 rounds
    outer.safetensors     state of the outer optimiser, "slot/leaf"
    checkpoint.json       study digest, next round, SHA-256 of both files
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from metaward.arrays import Arrays
from metaward.errors import ConfigError, FederationError
from metaward_server.outer_optimizers import OuterState

logger = logging.getLogger(__name__)

FORMAT = 1
KEPT = 3
"""Checkpoints kept: the newest, and two to fall back on when it is torn."""

THETA_FILE = "theta.safetensors"
OUTER_FILE = "outer.safetensors"
SUMMARY_FILE = "checkpoint.json"


@dataclass(frozen=True)
class Progress:
    """Where a study stands between two rounds.

    Attributes:
        next_round: Index of the round that comes next; equals the number of closed rounds.
        theta: Meta-parameters.
        outer_state: State of the outer optimiser.
    """

    next_round: int
    theta: Arrays
    outer_state: OuterState


class TornCheckpointError(Exception):
    """A checkpoint is incomplete or its bytes changed since it was written."""


class CheckpointStore:
    """The checkpoints of one study in one folder.

    Args:
        folder: Made when the first checkpoint is saved.
        study_digest: Checkpoints of another study are refused.
    """

    def __init__(self, folder: Path, study_digest: str) -> None:
        self.folder = folder
        self.study_digest = study_digest

    def save(self, progress: Progress) -> None:
        """Write a checkpoint so that a crash leaves either all of it or nothing of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"round-{progress.next_round:06d}"
        temporary = self.folder / f".{final.name}.tmp"
        for left_over in (temporary, final):
            if left_over.exists():
                shutil.rmtree(left_over)
        temporary.mkdir()
        digests: dict[str, str] = {}
        for name, arrays in (
            (THETA_FILE, progress.theta),
            (OUTER_FILE, _flatten(progress.outer_state)),
        ):
            data = save(arrays)
            digests[name] = hashlib.sha256(data).hexdigest()
            _write_synced(temporary / name, data)
        summary = {
            "format": FORMAT,
            "study_digest": self.study_digest,
            "next_round": progress.next_round,
            "sha256": digests,
        }
        _write_synced(temporary / SUMMARY_FILE, json.dumps(summary, indent=2).encode())
        _sync_folder(temporary)
        temporary.rename(final)
        _sync_folder(self.folder)
        for old in self._newest_first()[KEPT:]:
            shutil.rmtree(old)

    def is_empty(self) -> bool:
        """Tell whether no checkpoint was ever saved here."""
        return not self._newest_first()

    def load_newest(self) -> Progress:
        """Return the newest checkpoint that is whole.

        Raises:
            ConfigError: There is none, or it belongs to a study with other settings.
            FederationError: There are some, and none is whole.
        """
        folders = self._newest_first()
        if not folders:
            raise ConfigError(
                "no checkpoint",
                expected="a run that was started before",
                where=str(self.folder),
                next_step="Start without --resume.",
            )
        for folder in folders:
            try:
                return self._load(folder)
            except TornCheckpointError as error:
                logger.warning("checkpoint %s is torn (%s), trying the one before", folder, error)
        raise FederationError(
            f"{len(folders)} checkpoints, none of them whole",
            expected="at least one whose digests fit",
            where=str(self.folder),
            next_step="Start the study anew in another run directory.",
        )

    def _newest_first(self) -> list[Path]:
        found = self.folder.glob("round-[0-9]*")
        return sorted(found, key=lambda path: (len(path.name), path.name), reverse=True)

    def _load(self, folder: Path) -> Progress:
        summary = _read_summary(folder)
        if summary["study_digest"] != self.study_digest:
            raise ConfigError(
                "a checkpoint of a study with other settings",
                expected=f"the study with digest {self.study_digest[:12]}",
                where=str(folder),
                next_step="Resume with the same settings and seed, or use another run directory.",
            )
        theta = _read_arrays(folder / THETA_FILE, summary["sha256"])
        outer = _read_arrays(folder / OUTER_FILE, summary["sha256"])
        return Progress(int(summary["next_round"]), theta, _unflatten(outer))


def _read_summary(folder: Path) -> dict[str, Any]:
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_bytes())
    except (OSError, ValueError):
        raise TornCheckpointError(f"{SUMMARY_FILE} cannot be read") from None
    if not isinstance(summary, dict) or summary.get("format") != FORMAT:
        raise TornCheckpointError(f"{SUMMARY_FILE} is not of format {FORMAT}")
    if summary.keys() != {"format", "study_digest", "next_round", "sha256"}:
        raise TornCheckpointError(f"{SUMMARY_FILE} has other keys")
    return summary


def _read_arrays(path: Path, digests: dict[str, str]) -> Arrays:
    try:
        data = path.read_bytes()
    except OSError:
        raise TornCheckpointError(f"{path.name} cannot be read") from None
    if hashlib.sha256(data).hexdigest() != digests.get(path.name):
        raise TornCheckpointError(f"{path.name} does not have its digest")
    arrays = load(data)
    return {name: np.array(arrays[name], dtype=np.float32) for name in sorted(arrays)}


def _flatten(state: OuterState) -> Arrays:
    return {
        f"{slot}/{name}": leaf for slot, arrays in state.items() for name, leaf in arrays.items()
    }


def _unflatten(arrays: Arrays) -> OuterState:
    state: OuterState = {}
    for key, leaf in arrays.items():
        slot, name = key.split("/", 1)
        state.setdefault(slot, {})[name] = leaf
    return state


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
