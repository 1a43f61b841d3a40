"""A study in its run directory: begun once, resumed to the same bits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict

from metaward.arrays import Arrays
from metaward.errors import ConfigError, FederationError
from metaward.model_artefact import ModelCard, save_model
from metaward.model_settings import ModelSettings
from metaward.privacy_statement import PrivacyStatement
from metaward.progress import RoundEvent
from metaward.study import AdamSettings, RoundSettings, Study
from metaward_server import study_run
from metaward_server.app import app
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.failure_note import read_failure
from metaward_server.study_run import initial_theta, run_study

STUDY = Study(seed=3, rounds=6, outer=AdamSettings(step_size=0.1))
Node = Callable[[Message], RecordDict | Error | None]


class PowerCut(BaseException):
    """Ends a study between two rounds, as a crash would."""


@pytest.fixture
def small_theta(theta: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    unsorted = {name: theta[name] for name in sorted(theta, reverse=True)}
    monkeypatch.setattr(study_run, "initial_theta", lambda _: unsorted)


@pytest.fixture
def run(tmp_path: Path, small_theta: None, scripted_grid: Any, honest_node: Node) -> Any:
    def play(
        name: str,
        *,
        resume: bool = False,
        study: Study = STUDY,
        on_round: Callable[[RoundEvent], None] = lambda _: None,
    ) -> Arrays:
        grid = scripted_grid({1: honest_node, 2: honest_node})
        return run_study(grid, study, tmp_path / name, n_nodes=2, resume=resume, on_round=on_round)

    return play


def stop_after(round_index: int) -> Callable[[RoundEvent], None]:
    def watch(event: RoundEvent) -> None:
        if event.round_index == round_index:
            raise PowerCut

    return watch


def rounds_in(run_dir: Path) -> list[int]:
    lines = (run_dir / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["round_index"] for line in lines]


@pytest.mark.parametrize("last_round", [0, 2, 4])
def test_a_resumed_study_ends_at_the_same_bits(run: Any, tmp_path: Path, last_round: int) -> None:
    whole = run("whole")
    with pytest.raises(PowerCut):
        run("cut", on_round=stop_after(last_round))
    resumed = run("cut", resume=True)
    assert list(resumed) == list(whole)  # sums over leaves keep their order too
    assert {n: a.tobytes() for n, a in resumed.items()} == {
        n: a.tobytes() for n, a in whole.items()
    }
    assert rounds_in(tmp_path / "cut") == list(range(6))


def test_a_round_is_logged_before_a_checkpoint_counts_it(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a study that is killed between the two resumes after a round that no log has."""
    logged: dict[int, list[int]] = {}
    save = CheckpointStore.save

    def noted_save(store: CheckpointStore, progress: Progress) -> None:
        if progress.next_round:  # not what stands before the first round
            logged[progress.next_round] = rounds_in(tmp_path / "run")
        save(store, progress)

    monkeypatch.setattr(CheckpointStore, "save", noted_save)
    run("run")
    assert logged == {closed: list(range(closed)) for closed in range(1, 7)}


def test_a_round_logged_but_not_checkpointed_is_played_again_and_logged_once(
    run: Any, tmp_path: Path
) -> None:
    whole = run("whole")
    with pytest.raises(PowerCut):
        run("cut", on_round=stop_after(3))
    shutil.rmtree(tmp_path / "cut/checkpoints/round-000004")  # as if killed before it was written
    resumed = run("cut", resume=True)
    assert resumed["w"].tobytes() == whole["w"].tobytes()
    assert rounds_in(tmp_path / "cut") == list(range(6))


def test_a_study_whose_log_has_a_broken_line_stops_with_a_sentence_and_goes_on_without_it(
    run: Any, tmp_path: Path
) -> None:
    whole = run("whole")
    with pytest.raises(PowerCut):
        run("cut", on_round=stop_after(2))
    log = tmp_path / "cut/rounds.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[1][:40] + lines[2])  # as if written one into the other
    with pytest.raises(FederationError, match="line 2 cannot be read"):
        run("cut", resume=True)
    log.write_bytes(lines[0])
    assert run("cut", resume=True)["w"].tobytes() == whole["w"].tobytes()
    assert rounds_in(tmp_path / "cut") == [0, 3, 4, 5]


def test_a_finished_study_resumes_to_its_result_without_a_round(run: Any) -> None:
    seen: list[RoundEvent] = []
    whole = run("whole")
    again = run("whole", resume=True, on_round=seen.append)
    assert again["w"].tobytes() == whole["w"].tobytes()
    assert not seen


@pytest.mark.parametrize("resume", [False, True])
def test_a_study_of_which_no_round_counted_has_no_result(
    tmp_path: Path, small_theta: None, scripted_grid: Any, resume: bool
) -> None:
    study = STUDY.model_copy(update={"rounds": 2, "round": RoundSettings(deadline_s=0.1)})
    assert study.rounds < study.round.max_void_rounds
    for again in (False, True)[: 1 + resume]:
        grid = scripted_grid({1: lambda _: None})
        with pytest.raises(FederationError, match="all rounds were void: 2"):
            run_study(grid, study, tmp_path, n_nodes=1, resume=again, on_round=lambda _: None)
    assert rounds_in(tmp_path) == [0, 1]


def test_a_start_where_a_study_was_run_is_refused_and_changes_nothing(
    run: Any, tmp_path: Path
) -> None:
    run("whole")
    with pytest.raises(ConfigError, match="earlier run"):
        run("whole")
    assert rounds_in(tmp_path / "whole") == list(range(6))


def test_resuming_with_other_settings_is_refused(run: Any) -> None:
    run("whole")
    with pytest.raises(ConfigError, match="other settings"):
        run("whole", resume=True, study=STUDY.model_copy(update={"rounds": 7}))


def test_resuming_nothing_is_refused(run: Any) -> None:
    with pytest.raises(ConfigError, match="no checkpoint"):
        run("new", resume=True)


def test_the_first_theta_depends_on_the_seed_alone() -> None:
    model = ModelSettings(filters=8, image_size=16, groups=2)
    one, same, other = (initial_theta(Study(seed=s, model=model)) for s in (1, 1, 2))
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in same.items()}
    assert one["convs.0.weight"].tobytes() != other["convs.0.weight"].tobytes()


def test_the_server_app_reads_the_study_from_the_run_settings(
    tmp_path: Path, small_theta: None, scripted_grid: Any, honest_node: Node
) -> None:
    config = {"study": STUDY.model_dump_json(), "run-dir": str(tmp_path / "app"), "nodes": 1}
    app(scripted_grid({1: honest_node}), Context(1, 0, {}, RecordDict(), config))
    assert rounds_in(tmp_path / "app") == list(range(6))
    app(scripted_grid({1: honest_node}), Context(1, 0, {}, RecordDict(), config))  # asked again
    assert rounds_in(tmp_path / "app") == list(range(6))


def test_the_server_app_goes_on_from_the_newest_checkpoint(
    tmp_path: Path, small_theta: None, run: Any, scripted_grid: Any, honest_node: Node
) -> None:
    whole = run("whole")
    with pytest.raises(PowerCut):
        run("app", on_round=stop_after(3))
    config = {"study": STUDY.model_dump_json(), "run-dir": str(tmp_path / "app"), "nodes": 2}
    grid = scripted_grid({1: honest_node, 2: honest_node})
    app(grid, Context(1, 0, {}, RecordDict(), config))
    store = CheckpointStore(tmp_path / "app" / "checkpoints", STUDY.digest())
    theta = store.load_newest().theta
    assert {n: a.tobytes() for n, a in theta.items()} == {n: a.tobytes() for n, a in whole.items()}
    assert rounds_in(tmp_path / "app") == list(range(6))


def test_why_the_server_app_ended_is_written_down_and_forgotten_when_it_goes_on(
    tmp_path: Path, small_theta: None, scripted_grid: Any, honest_node: Node
) -> None:
    study = STUDY.model_copy(update={"round": RoundSettings(deadline_s=0.2)})
    config = {"study": study.model_dump_json(), "run-dir": str(tmp_path), "nodes": 1}
    with pytest.raises(FederationError):
        app(scripted_grid({1: lambda _: None}), Context(1, 0, {}, RecordDict(), config))
    assert "void rounds in a row" in read_failure(tmp_path)
    app(scripted_grid({1: honest_node}), Context(1, 0, {}, RecordDict(), config))
    assert read_failure(tmp_path) == ""


@pytest.mark.parametrize(
    ("change", "match"),
    [({"study": "{}x"}, "a study as JSON"), ({"study": None}, "study, run-dir and nodes")],
)
def test_run_settings_that_are_wrong_are_said(
    tmp_path: Path, scripted_grid: Any, honest_node: Node, change: dict[str, Any], match: str
) -> None:
    config: dict[str, Any] = {"study": STUDY.model_dump_json(), "run-dir": str(tmp_path)}
    config = {k: v for k, v in (config | change).items() if v is not None}
    with pytest.raises(ConfigError, match=match):
        app(scripted_grid({1: honest_node}), Context(1, 0, {}, RecordDict(), config))


def test_a_study_begins_from_the_model_that_its_folder_holds(
    tmp_path: Path, scripted_grid: Any
) -> None:
    """Looked at before the first round is closed."""

    def cut(_: Message) -> None:
        raise PowerCut

    model = ModelSettings(filters=8, image_size=16, groups=2)
    public = Study(name="public", model=model, seed=9)
    start = initial_theta(public)
    folder = tmp_path / "run"
    card = save_model(folder / "start", ModelCard.of_study(public, PrivacyStatement()), start)
    study = Study(model=model, rounds=1, start_sha256=card.parameters_sha256)
    config = {"study": study.model_dump_json(), "run-dir": str(folder), "nodes": 1}
    with pytest.raises(PowerCut):
        app(scripted_grid({1: cut}), Context(1, 0, {}, RecordDict(), config))
    begun = CheckpointStore(folder / "checkpoints", study.digest()).load_newest().theta
    assert {n: a.tobytes() for n, a in begun.items()} == {n: a.tobytes() for n, a in start.items()}


def test_a_study_that_begins_from_a_model_does_not_begin_without_it(
    tmp_path: Path, scripted_grid: Any, honest_node: Node
) -> None:
    study = Study(model=ModelSettings(filters=8, image_size=16, groups=2), start_sha256="a" * 64)
    grid = scripted_grid({1: honest_node})
    for start in (None, tmp_path / "nothing"):
        with pytest.raises(ConfigError):
            run_study(
                grid,
                study,
                tmp_path / "run",
                n_nodes=1,
                resume=False,
                on_round=lambda _: None,
                start=start,
            )
    assert not list((tmp_path / "run").rglob("round-*"))
