"""Studies that a coordinator runs: what is wanted, what has happened, and how it is kept going.

    studies/NAME/study.yaml     what is run; never changes
    studies/NAME/start/         the model that it begins from, where it begins from one
    studies/NAME/state.yaml     wanted, running, finished or failed; and why
    studies/NAME/rounds.jsonl, checkpoints/, model/     as in every run directory

The files are the truth, and :func:`look_after` brings the SuperLink to them: it submits what is
wanted, submits again what was lost (from the newest checkpoint; sites answer a round that they
have answered before with the same bytes, at no cost), and writes the model of what is done.
"""

import json
import shlex
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import yaml
from pydantic import Field

from metaward.bundle import APP_FOLDER
from metaward.config import Settings, load_settings
from metaward.errors import ConfigError, MetawardError
from metaward.model_artefact import ModelArtefact, ModelCard, save_model
from metaward.privacy_promise import PrivacyPromise
from metaward.privacy_statement import joint_statement
from metaward.private_file import make_private_folder
from metaward.run_directory import RunDirectory
from metaward.services import only_one
from metaward.start_model import START_FOLDER, keep_start, read_start, with_start
from metaward.study import Study
from metaward.whole_file import write_atomically
from metaward_server.checkpoints import CheckpointStore
from metaward_server.coordinator.flower_cli import ask_flower
from metaward_server.coordinator.home import Coordinator
from metaward_server.failure_note import clear_failure, read_failure
from metaward_server.study_run import CHECKPOINTS_FOLDER

STUDY_FILE, STATE_FILE, MODEL_FOLDER = "study.yaml", "state.yaml", "model"
TURN_FOLDER = ".turn"
"""Who writes a study down holds its lock; no study has such a name."""
RUNS_LISTED = "1000"
"""Newest runs that Flower is asked for."""
ATTEMPTS = 5
"""Submissions in a row without a new round, after which a study has failed."""
STATES_KNOWN = 10_000
"""Studies whose state is not read again while its file stays the same."""


class StudyState(Settings):
    """The content of `state.yaml`."""

    state: Literal["wanted", "running", "finished", "failed"] = "wanted"
    nodes: int = Field(ge=1, description="hospitals to wait for before the first round")
    run: str = Field("", description="number of Flower's run")
    attempts: int = Field(0, ge=0, description="submissions since the last new round")
    rounds_done: int = Field(0, ge=0, description="closed rounds when it was submitted last")
    reason: str = Field("", description="why it failed")


@dataclass(frozen=True)
class StudyFolder:
    """One study."""

    path: Path

    @property
    def study(self) -> Study:
        """What is run."""
        return load_settings(self.path / STUDY_FILE, Study)

    @property
    def state(self) -> StudyState:
        """How it stands."""
        path = self.path / STATE_FILE
        try:
            status = path.stat()
        except OSError:  # said in a sentence by who reads it
            return load_settings(path, StudyState)
        return _state_in(path, (status.st_ino, status.st_mtime_ns, status.st_size))

    def write(self, state: StudyState) -> None:
        """Write how it stands, at once."""
        text = yaml.safe_dump(state.model_dump(mode="json"), sort_keys=False)
        write_atomically(self.path / STATE_FILE, text)

    def promises(self) -> list[tuple[str, PrivacyPromise]]:
        """Return (node, what its hospital said of its policy), for every update that counted."""
        return [
            (node, PrivacyPromise.from_settings(settings))
            for event in RunDirectory(self.path).read_rounds()
            for node, settings in event.promises.items()
        ]

    def rounds_done(self) -> int:
        """Return how many rounds are committed."""
        store = CheckpointStore(self.path / CHECKPOINTS_FOLDER, self.study.digest())
        return 0 if store.is_empty() else store.load_newest().next_round


@lru_cache(maxsize=STATES_KNOWN)
def _state_in(path: Path, _version: tuple[int, ...]) -> StudyState:
    """Read a state once for each time that it was written.

    The keeper asks every few seconds for those of all studies, and nearly all were over long ago.
    """
    return load_settings(path, StudyState)


def want(
    coordinator: Coordinator, study: Study, nodes: int, start: Path | None = None
) -> StudyFolder:
    """Write down that a study shall run.

    Args:
        coordinator: Where.
        study: What shall run.
        nodes: Hospitals to wait for before the first round.
        start: The model artefact that it begins from, where it names one.

    Raises:
        ConfigError: There is one of that name; or ``start`` is not what the study begins from.
    """
    begun = _start_of(study, start)
    folder = StudyFolder(coordinator.studies / study.name)
    turn = coordinator.studies / TURN_FOLDER
    turn.mkdir(exist_ok=True)
    with only_one(turn, "the beginning of a study", wait=True):
        if folder.path.exists() and not _is_half_written(folder.path):
            home = shlex.quote(str(coordinator.folder))
            raise ConfigError(
                f"there is a study {study.name} already",
                expected="a name of its own for each study",
                where=str(folder.path),
                next_step=f"metaward server resume {home} {study.name}, or change "
                "`name` in the study.",
            )
        if folder.path.exists():
            shutil.rmtree(folder.path)
        make_private_folder(folder.path)
        if begun is not None:
            keep_start(begun, folder.path)
        text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
        write_atomically(folder.path / STUDY_FILE, text)
        folder.write(StudyState(nodes=nodes))  # last: without it, it is not there
    return folder


def _is_half_written(folder: Path) -> bool:
    """Return whether a command was killed while it wrote a study down, and nothing else is there.

    The state comes last. Where anything stands that a study leaves while it runs, nothing is ours
    to throw away, whatever became of the state.
    """
    beginnings = {STUDY_FILE, START_FOLDER}
    halves = tuple(f".{name}." for name in (STUDY_FILE, STATE_FILE, START_FOLDER))
    return folder.is_dir() and all(
        path.name in beginnings or path.name.startswith(halves) for path in folder.iterdir()
    )


def _start_of(study: Study, folder: Path | None) -> ModelArtefact | None:
    """Return the model that a study begins from; the study must say so itself.

    Hospitals approve the study's file, so what it begins from cannot be added on the way.
    """
    if folder is None:
        if not study.start_sha256:
            return None
        raise ConfigError(
            f"start_sha256 ({study.start_sha256[:12]}…) without that model",
            expected="the folder of the model that the study begins from",
            where=f"study {study.name}",
            next_step="Name it with --start, or leave start_sha256 out.",
        )
    start = read_start(folder, study)
    if not study.start_sha256:
        raise ConfigError(
            "a model to begin from, and a study that does not name it",
            expected=f"start_sha256: {start.card.parameters_sha256}",
            where=f"study {study.name}",
            next_step="Write that line into the study's file, which hospitals approve.",
        )
    return start


def want_again(coordinator: Coordinator, name: str) -> StudyFolder:
    """Write down that a study that failed shall go on."""
    folder = find(coordinator, name)
    state = folder.state
    if state.state == "failed":
        clear_failure(folder.path)
        folder.write(state.model_copy(update={"state": "wanted", "attempts": 0, "reason": ""}))
    return folder


def find(coordinator: Coordinator, name: str) -> StudyFolder:
    """Return a study by its name.

    Raises:
        ConfigError: There is none.
    """
    folder = StudyFolder(coordinator.studies / name)
    if not (folder.path / STATE_FILE).exists():
        raise ConfigError(
            f"no study {name}",
            expected=f"one of {', '.join(f.path.name for f in all_studies(coordinator)) or '-'}",
            where=str(coordinator.studies),
            next_step="metaward server run STUDY.yaml begins one.",
        )
    return folder


def all_studies(coordinator: Coordinator) -> list[StudyFolder]:
    """Return all studies, by name."""
    found = sorted(coordinator.studies.glob(f"*/{STATE_FILE}"))
    return [StudyFolder(path.parent) for path in found]


def look_after(coordinator: Coordinator, folder: StudyFolder) -> None:
    """Bring the SuperLink to what is wanted of one study; called again and again.

    Raises:
        FederationError: The SuperLink is not there.
    """
    state = folder.state
    if state.state == "wanted":
        _submit(coordinator, folder, state)
    elif state.state == "running" and _has_ended(coordinator, state.run):
        _go_on(coordinator, folder, state)


def _go_on(coordinator: Coordinator, folder: StudyFolder, state: StudyState) -> None:
    """Finish a study whose run has ended, submit it again, or say why it failed."""
    done, reason = _how_it_ended(folder)
    attempts = 1 if done > state.rounds_done else state.attempts + 1
    if not reason and done >= folder.study.rounds:
        _write_model(folder)
        folder.write(state.model_copy(update={"state": "finished", "rounds_done": done}))
        return
    if not reason and attempts > ATTEMPTS:
        reason = f"{ATTEMPTS} submissions in a row ended without a new round; see log/"
    if reason:
        folder.write(state.model_copy(update={"state": "failed", "reason": reason}))
    else:
        again = {"attempts": attempts, "rounds_done": done}
        _submit(coordinator, folder, state.model_copy(update=again))


def _how_it_ended(folder: StudyFolder) -> tuple[int, str]:
    """Return the rounds that are committed, and why the study cannot go on; nothing where it can.

    What the study's process says comes first: a study may fail in its last round.
    """
    reason = read_failure(folder.path)
    try:
        return folder.rounds_done(), reason
    except MetawardError as error:
        return 0, reason or str(error)


def _submit(coordinator: Coordinator, folder: StudyFolder, state: StudyState) -> None:
    study = folder.study
    settings = {
        "study": study.model_dump_json(),
        "run-dir": str(folder.path),
        "nodes": state.nodes,
    }
    # JSON's strings and numbers are TOML's
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "settings.toml"
        file.write_text("".join(lines), encoding="utf-8")
        answer = ask_flower(coordinator, "run", str(APP_FOLDER), **{"run-config": str(file)})
    folder.write(state.model_copy(update={"state": "running", "run": str(answer["run-id"])}))


def _has_ended(coordinator: Coordinator, run: str) -> bool:
    """Return whether a run is over, or unknown to a SuperLink that has lost its state."""
    runs = ask_flower(coordinator, "list", limit=RUNS_LISTED)["runs"]
    status = {str(one["run-id"]): str(one["status"]) for one in runs}
    return status.get(run, "finished").startswith("finished")


def _write_model(folder: StudyFolder) -> None:
    study = folder.study
    store = CheckpointStore(folder.path / CHECKPOINTS_FOLDER, study.digest())
    promised = joint_statement(one for _, one in folder.promises())
    card = ModelCard.of_study(study, with_start(promised, study, folder.path / START_FOLDER))
    save_model(folder.path / MODEL_FOLDER, card, store.load_newest().theta)
