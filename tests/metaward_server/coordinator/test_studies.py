"""What is wanted stands in files; the keeper brings a SuperLink to it, whatever was killed."""

import tomllib
from datetime import UTC, datetime

import pytest

from fake_superlink import STUDY, FakeSuperLink, commit, request
from metaward.errors import ConfigError, FederationError
from metaward.model_artefact import load_model
from metaward.study import Study
from metaward_server.coordinator import hospitals, studies
from metaward_server.coordinator.home import Coordinator
from metaward_server.coordinator.keeper import keep_once
from metaward_server.coordinator.standing import standing
from metaward_server.coordinator.studies import StudyFolder
from metaward_server.failure_note import write_failure
from metaward_server.study_run import initial_theta


def test_an_enrolled_hospital_gets_one_node_and_again_when_the_superlink_forgot(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    hospitals.enrol(coordinator, request("north"))
    keep_once(coordinator)
    keep_once(coordinator)
    assert superlink.nodes == {"100": "north"}
    superlink.forget()
    keep_once(coordinator)
    assert list(superlink.nodes.values()) == ["north"]


def test_a_removed_hospital_has_no_node_and_its_name_is_free(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    hospitals.enrol(coordinator, request("north"))
    keep_once(coordinator)
    hospitals.remove(coordinator, "north")
    assert superlink.nodes == {}
    hospitals.enrol(coordinator, request("north"))
    with pytest.raises(ConfigError, match="no hospital south"):
        hospitals.remove(coordinator, "south")


def test_a_wanted_study_is_submitted_once(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=2)
    for _ in range(3):
        keep_once(coordinator)
    assert superlink.runs == {"1": "running"}
    assert folder.state.state == "running"
    assert "nodes = 2" in superlink.settings[0]
    assert folder.study == STUDY


@pytest.mark.parametrize(
    "files",
    [(), (studies.STUDY_FILE,), (studies.STUDY_FILE, "start/card"), (".start.5eed.new/card",)],
)
def test_a_study_that_was_killed_while_it_was_written_down_can_be_wanted_again(
    coordinator: Coordinator, files: tuple[str, ...]
) -> None:
    folder = coordinator.studies / STUDY.name
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("half", encoding="utf-8")
    begun = studies.want(coordinator, STUDY, nodes=2)
    assert begun.study == STUDY
    assert sorted(path.name for path in folder.iterdir()) == ["state.yaml", "study.yaml"]


@pytest.mark.parametrize("left", ["rounds.jsonl", "checkpoints", "model", "notes.txt"])
def test_a_study_that_lost_its_state_loses_nothing_else(
    coordinator: Coordinator, left: str
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=2)
    (folder.path / studies.STATE_FILE).unlink()
    (folder.path / left).write_text("a day's work", encoding="utf-8")
    with pytest.raises(ConfigError, match="a study chest already"):
        studies.want(coordinator, STUDY, nodes=2)
    assert (folder.path / left).read_text(encoding="utf-8") == "a day's work"


def test_a_study_that_stands_in_the_settings_is_the_one_that_is_wanted(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    studies.want(coordinator, STUDY, nodes=2)
    keep_once(coordinator)
    settings = tomllib.loads(superlink.settings[0])
    assert Study.model_validate_json(settings["study"]) == STUDY
    assert settings["run-dir"] == str(coordinator.studies / "chest")


@pytest.mark.parametrize("lost", ["failed", "forgotten"])
def test_a_study_whose_process_was_killed_is_submitted_again(
    coordinator: Coordinator, superlink: FakeSuperLink, lost: str
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    commit(folder, 1)
    superlink.runs = {"1": "finished:failed"} if lost == "failed" else {}
    keep_once(coordinator)
    assert "running" in superlink.runs.values()
    assert (folder.state.state, folder.state.attempts) == ("running", 1)


def test_a_study_that_never_gets_a_round_done_fails_and_can_be_resumed(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    for _ in range(studies.ATTEMPTS + 3):
        keep_once(coordinator)
        superlink.runs = dict.fromkeys(superlink.runs, "finished:failed")
    assert folder.state.state == "failed"
    assert len(superlink.runs) == 1 + studies.ATTEMPTS
    assert "without a new round" in folder.state.reason
    studies.want_again(coordinator, "chest")
    keep_once(coordinator)
    assert (folder.state.state, folder.state.reason) == ("running", "")


def test_a_study_that_moves_on_is_submitted_as_often_as_it_takes(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    for done in range(3):
        keep_once(coordinator)
        commit(folder, done)
        superlink.runs = dict.fromkeys(superlink.runs, "finished:failed")
    assert folder.state.state == "running"


def failed(
    coordinator: Coordinator, superlink: FakeSuperLink, reason: str, *, done: int = 0
) -> StudyFolder:
    """Return the study when its process has ended, and has said why."""
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    if done:
        commit(folder, done)
    write_failure(folder.path, FederationError(reason))
    superlink.runs["1"] = "finished:failed"
    keep_once(coordinator)
    return folder


def test_a_study_that_says_why_it_ended_is_not_tried_again(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = failed(coordinator, superlink, "0 sites are connected")
    assert (folder.state.state, folder.state.reason) == ("failed", "0 sites are connected")
    assert standing(coordinator, datetime.now(UTC))["studies"][0]["reason"] == folder.state.reason


def test_a_study_that_fails_in_its_last_round_is_not_finished(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = failed(coordinator, superlink, "3 void rounds in a row", done=STUDY.rounds)
    assert (folder.state.state, folder.state.reason) == ("failed", "3 void rounds in a row")
    assert not (folder.path / "model").exists()


def test_a_study_that_is_resumed_does_not_fail_again_for_its_old_reason(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    """Its new process is killed before it has done anything."""
    folder = failed(coordinator, superlink, "0 sites are connected")
    studies.want_again(coordinator, "chest")
    keep_once(coordinator)
    superlink.runs["2"] = "finished:failed"
    keep_once(coordinator)
    assert (folder.state.state, superlink.runs["3"]) == ("running", "running")


@pytest.mark.parametrize("said", ["", "the study's own words"])
def test_a_study_whose_checkpoints_are_damaged_fails_and_stops_no_other(
    coordinator: Coordinator, superlink: FakeSuperLink, said: str
) -> None:
    damaged = studies.want(coordinator, STUDY, nodes=1)
    other = studies.want(coordinator, STUDY.model_copy(update={"name": "later"}), nodes=1)
    keep_once(coordinator)
    commit(damaged, 1)
    (damaged.path / "checkpoints" / "round-000001" / "theta.safetensors").unlink()
    if said:
        write_failure(damaged.path, FederationError(said))
    superlink.runs = dict.fromkeys(superlink.runs, "finished:failed")
    keep_once(coordinator)
    assert damaged.state.state == "failed"
    assert (said or "none of them whole") in damaged.state.reason
    assert (other.state.state, other.state.attempts) == ("running", 1)


def test_a_finished_study_has_a_model(coordinator: Coordinator, superlink: FakeSuperLink) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    commit(folder, STUDY.rounds)
    superlink.runs["1"] = "finished:completed"
    keep_once(coordinator)
    assert folder.state.state == "finished"
    artefact = load_model(folder.path / "model")
    assert artefact.card.study_digest == STUDY.digest()
    assert not artefact.card.privacy.is_private  # no hospital has spoken of a mechanism
    assert "NOT PRIVATE" in artefact.card.privacy.sentence
    assert artefact.theta.keys() == initial_theta(STUDY).keys()


def test_a_run_that_completed_without_its_rounds_is_not_a_finished_study(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    superlink.runs["1"] = "finished:completed"
    keep_once(coordinator)
    assert folder.state.state == "running"
    assert not (folder.path / "model").exists()


def test_a_name_is_one_study(coordinator: Coordinator) -> None:
    studies.want(coordinator, STUDY, nodes=1)
    with pytest.raises(ConfigError, match="a study chest already"):
        studies.want(coordinator, STUDY.model_copy(update={"rounds": 9}), nodes=1)
    with pytest.raises(ConfigError, match="no study other"):
        studies.find(coordinator, "other")


def test_a_keeper_does_not_read_again_how_an_old_study_ended(
    coordinator: Coordinator, superlink: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks every few seconds, for years, and at ever more of them."""
    folder = studies.want(coordinator, STUDY, nodes=1)
    folder.write(folder.state.model_copy(update={"state": "failed"}))
    keep_once(coordinator)

    def read_again(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(studies, "load_settings", read_again)
        keep_once(coordinator, thorough=False)
    studies.want_again(coordinator, STUDY.name)
    keep_once(coordinator, thorough=False)
    assert folder.state.state == "running"
    assert len(superlink.runs) == 1
