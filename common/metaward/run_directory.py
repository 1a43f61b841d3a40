"""The folder that one run writes: what stands where, and how it is written.

config.yaml      resolved settings, with command, commit, seeds and versions
rounds.jsonl     one line per closed round
model/           the model artefact: meta.safetensors and model.yaml
baselines/NAME/  the same, for each method that it is compared with
checkpoints/     to resume from
privacy.json     per site: unit, relation, mechanism, accountant, epsilon, delta
report.json      the evaluation, for machines
report.html      the same, for people
lock             held by the process that trains
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from metaward.errors import ConfigError
from metaward.model_artefact import CARD_FILE
from metaward.privacy_statement import PrivacyStatement
from metaward.private_file import whole_or_empty
from metaward.progress import RoundEvent
from metaward.whole_file import write_atomically

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, and the writers of its small files. Every write is atomic."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make an empty run directory.

        Raises:
            ConfigError: The path is a file, or a folder in which something stands.
        """
        if path.exists():
            _refuse_unless_empty(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the folder cannot be made ({error.strerror})",
                expected="a place where this user may write",
                where=str(path),
                next_step="Choose another folder with --out.",
            ) from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a run directory that stands.

        Raises:
            ConfigError: There is none.
        """
        if not (path / CONFIG_FILE).is_file():
            found = "no such folder" if not path.exists() else f"a folder without {CONFIG_FILE}"
            raise ConfigError(
                found if not path.is_file() else "a file",
                expected=f"a run directory, with {CONFIG_FILE}",
                where=str(path),
                next_step="Name the folder that `metaward simulate --out` wrote.",
            )
        return cls(path)

    @property
    def config(self) -> Path:
        """Resolved settings."""
        return self.path / CONFIG_FILE

    @property
    def rounds(self) -> Path:
        """One line of JSON per closed round."""
        return self.path / "rounds.jsonl"

    @property
    def model(self) -> Path:
        """Folder of the model artefact."""
        return self.path / "model"

    def baseline(self, name: str) -> Path:
        """Folder of a baseline's model artefact."""
        return self.path / "baselines" / name

    @property
    def baselines(self) -> tuple[Path, ...]:
        """Folders of the baselines that were written, by name."""
        return tuple(sorted(card.parent for card in self.path.glob(f"baselines/*/{CARD_FILE}")))

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def privacy(self) -> Path:
        """What is promised, site by site."""
        return self.path / "privacy.json"

    @property
    def report_json(self) -> Path:
        """The evaluation, for machines."""
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        """The evaluation, for people."""
        return self.path / "report.html"

    def write_config(self, content: Mapping[str, Any]) -> None:  # Any: YAML holds any plain value
        """Write the resolved settings; plain values, as ``model_dump(mode="json")`` gives them."""
        write_atomically(self.config, yaml.safe_dump(dict(content), sort_keys=False))

    def read_config(self) -> dict[str, Any]:  # Any: YAML holds any plain value
        """Return the resolved settings.

        Raises:
            ConfigError: The file is not the YAML mapping that :meth:`write_config` wrote.
        """
        try:
            content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            content = None
        if isinstance(content, dict):
            return content
        raise ConfigError(
            "a damaged file",
            expected="the YAML that this run wrote",
            where=str(self.config),
            next_step="Start a new run in another folder.",
        )

    def write_privacy(self, sites: Mapping[str, PrivacyStatement]) -> None:
        """Write what is promised at each site."""
        content = {site: statement.model_dump(mode="json") for site, statement in sites.items()}
        write_atomically(self.privacy, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def read_privacy(self) -> dict[str, Any]:  # Any: the statement of each site, as JSON
        """Return what is promised at each site that took part; empty where the run has not said.

        Raises:
            ConfigError: The file is damaged.
        """
        if not self.privacy.is_file():
            return {}
        try:
            content = json.loads(self.privacy.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if isinstance(content, dict):
            return content
        raise ConfigError(
            "a damaged file",
            expected="the JSON that this run wrote",
            where=str(self.privacy),
            next_step="Ask for the run again.",
        )

    def read_rounds(self) -> tuple[RoundEvent, ...]:
        """Return the closed rounds in order; a line that a crash cut off is not one.

        Raises:
            ConfigError: A whole line is not a round's.
        """
        if not self.rounds.exists():
            return ()
        content = self.rounds.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        events = []
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                events.append(RoundEvent(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"line {number} cannot be read",
                    expected="one line of JSON for each closed round",
                    where=str(self.rounds),
                    next_step="Put the line right from a copy, or delete it.",
                ) from error
        return tuple(events)


@contextlib.contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder; where it is not filled to the end, take it away with what is in it.

    Raises:
        ConfigError: See :meth:`RunDirectory.create`.
    """
    RunDirectory.create(path)
    try:
        with whole_or_empty(path):
            yield path
    except BaseException:
        with contextlib.suppress(OSError):  # it is a mount point
            path.rmdir()
        raise


def model_folder(path: Path) -> Path:
    """Return the model artefact that a user means: the folder itself, or a run's model."""
    return path if (path / CARD_FILE).is_file() else RunDirectory(path).model


def _refuse_unless_empty(path: Path) -> None:
    if not path.is_dir():
        found = "a file"
    elif (path / CONFIG_FILE).is_file():
        found = "another run"
    elif next(path.iterdir(), None) is not None:
        found = "a folder that holds other files"
    else:
        return
    raise ConfigError(
        found,
        expected="an empty or a new folder",
        where=str(path),
        next_step="Choose another folder with --out; nothing in this one was changed.",
    )
