"""What is wanted stands in files; the keeper brings a SuperLink to it, whatever was killed."""

import shutil
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from metaward.enrolment import new_request
from metaward.errors import ConfigError, FederationError
from metaward.model_artefact import (
    ModelCard,
    PrivacyStatement,
    load_card,
    load_model,
    save_model,
)
from metaward.privacy_promise import PrivacyPromise
from metaward.progress import RoundEvent
from metaward.services import only_one
from metaward.start_model import START_FOLDER
from metaward.study import ModelSettings, Study
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.coordinator import hospitals, studies
from metaward_server.coordinator.home import Coordinator, CoordinatorSettings, create
from metaward_server.coordinator.keeper import keep_once
from metaward_server.coordinator.standing import print_standing, standing
from metaward_server.failure_note import write_failure
from metaward_server.rounds_log import RoundsLog
from metaward_server.study_run import first_theta, initial_theta

STUDY = Study(name="chest", rounds=3, model=ModelSettings(filters=8, image_size=16, groups=2))


class FakeSuperLink:
    """Answers as Flower's command line does: nodes by number, runs with a status."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.runs: dict[str, str] = {}
        self.settings: list[str] = []
        self.is_up = True
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, _: Coordinator, *arguments: str, **options: str) -> dict[str, Any]:
        self.asked.append(arguments)
        if not self.is_up:
            raise FederationError("the SuperLink did not do this")
        match arguments:
            case ("supernode", "list"):
                return {"nodes": [{"node-id": n, "status": "online"} for n in self.nodes]}
            case ("supernode", "register", _):
                number = str(len(self.nodes) + 100)
                self.nodes[number] = options["name"]
                return {"node-id": number}
            case ("supernode", "unregister", number):
                del self.nodes[number]
                return {}
            case ("list",):
                return {"runs": [{"run-id": n, "status": s} for n, s in self.runs.items()]}
            case ("run", _):
                number = str(len(self.runs) + 1)
                self.runs[number] = "running"
                self.settings.append(Path(options["run-config"]).read_text())
                return {"run-id": number}
        raise AssertionError(arguments)


@pytest.fixture
def superlink(monkeypatch: pytest.MonkeyPatch) -> FakeSuperLink:
    fake = FakeSuperLink()
    monkeypatch.setattr(hospitals, "ask_flower", fake)
    monkeypatch.setattr(studies, "ask_flower", fake)
    return fake


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    settings = CoordinatorSettings(name="demo", address="fed.example.org:9443")
    return create(tmp_path / "c", settings, datetime.now(UTC))


def request(name: str) -> Any:
    return new_request(name, ec.generate_private_key(ec.SECP384R1()))


def commit(folder: studies.StudyFolder, next_round: int) -> None:
    store = CheckpointStore(folder.path / "checkpoints", STUDY.digest())
    store.save(Progress(next_round, initial_theta(STUDY), {}))


def test_an_enrolled_hospital_gets_one_node_and_again_when_the_superlink_forgot(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    hospitals.enrol(coordinator, request("north"))
    keep_once(coordinator)
    keep_once(coordinator)
    assert superlink.nodes == {"100": "north"}
    superlink.nodes.clear()
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


@pytest.mark.parametrize("files", [(), (studies.STUDY_FILE,), (studies.STUDY_FILE, "start/card")])
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


def test_a_study_that_says_why_it_ended_is_not_tried_again(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    write_failure(folder.path, FederationError("0 sites are connected"))
    superlink.runs["1"] = "finished:failed"
    keep_once(coordinator)
    assert (folder.state.state, folder.state.reason) == ("failed", "0 sites are connected")
    assert standing(coordinator, datetime.now(UTC))["studies"][0]["reason"] == folder.state.reason


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


def closed_round(folder: studies.StudyFolder, promises: dict[str, PrivacyPromise]) -> None:
    said = {node: promise.to_settings() for node, promise in promises.items()}
    index = len(folder.promises())
    RoundsLog(folder.path / "rounds.jsonl").append(RoundEvent(index, 3, 2, 2, promises=said))


def test_status_and_card_say_what_the_hospitals_said_of_their_privacy(
    coordinator: Coordinator, superlink: FakeSuperLink, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("north", "south"):
        hospitals.enrol(coordinator, request(name))
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    loose = PrivacyPromise("dp-sgd", 8.0, 1e-5, "add or remove one patient")
    tight = PrivacyPromise("dp-sgd", 2.0, 1e-5, "add or remove one patient")
    closed_round(folder, {"100": loose, "101": tight})
    closed_round(folder, {"100": tight})
    found = standing(coordinator, datetime.now(UTC))
    said = {one["hospital"]: one["promises"] for one in found["hospitals"]}
    latest = {"chest": "2 at delta 1.0e-05, dp-sgd"}
    assert said == {"north": latest, "south": latest}
    print_standing(found)
    assert "2 at delta 1.0e-05" in capsys.readouterr().out
    commit(folder, STUDY.rounds)
    superlink.runs["1"] = "finished:completed"
    keep_once(coordinator)
    card = load_model(folder.path / "model").card
    assert (card.privacy.epsilon, card.privacy.is_private) == (8.0, True)  # north's first round


def test_what_a_hospital_said_of_its_privacy_outlives_a_superlink_that_lost_its_state(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    hospitals.enrol(coordinator, request("north"))
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    closed_round(folder, {"100": PrivacyPromise("dp-sgd", 8.0, 1e-5, "add or remove one patient")})
    superlink.nodes = {"7": "another federation's"}  # so that north gets another number
    keep_once(coordinator)
    [north] = standing(coordinator, datetime.now(UTC))["hospitals"]
    assert north["promises"] == {"chest": "8 at delta 1.0e-05, dp-sgd"}


def test_a_run_that_completed_without_its_rounds_is_not_a_finished_study(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    superlink.runs["1"] = "finished:completed"
    keep_once(coordinator)
    assert folder.state.state == "running"
    assert not (folder.path / "model").exists()


def test_the_superlink_is_asked_only_what_the_folder_leaves_open(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    """Each question is a process that costs seconds."""
    hospitals.enrol(coordinator, request("north"))
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator, thorough=False)  # a hospital without a node, a study that is wanted
    assert (len(superlink.nodes), folder.state.state) == (1, "running")
    superlink.asked.clear()
    with only_one(folder.path, "this study"):
        keep_once(coordinator, thorough=False)
        assert superlink.asked == []
        keep_once(coordinator)
        assert superlink.asked == [("supernode", "list"), ("list",)]
    superlink.asked.clear()
    keep_once(coordinator, thorough=False)  # its process is gone
    assert superlink.asked == [("list",)]


def test_a_damaged_file_of_one_study_does_not_stop_the_others(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    damaged = studies.want(coordinator, STUDY.model_copy(update={"name": "a"}), nodes=1)
    (damaged.path / "study.yaml").write_text("{")
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    assert folder.state.state == "running"


def test_a_name_is_one_study(coordinator: Coordinator) -> None:
    studies.want(coordinator, STUDY, nodes=1)
    with pytest.raises(ConfigError, match="a study chest already"):
        studies.want(coordinator, STUDY.model_copy(update={"rounds": 9}), nodes=1)
    with pytest.raises(ConfigError, match="no study other"):
        studies.find(coordinator, "other")


def test_where_things_stand_is_told_without_a_superlink(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    hospitals.enrol(coordinator, request("north"))
    studies.want(coordinator, STUDY, nodes=1)
    superlink.is_up = False
    found = standing(coordinator, datetime.now(UTC))
    assert found["running"] is False
    assert found["hospitals"] == [
        {"hospital": "north", "status": "unknown", "last_seen": "", "promises": {}}
    ]
    assert found["studies"][0]["state"] == "wanted"
    superlink.is_up = True
    keep_once(coordinator)
    [north] = standing(coordinator, datetime.now(UTC))["hospitals"]
    assert (north["status"], north["last_seen"]) == ("online", "now")


@pytest.fixture
def public_model(tmp_path: Path) -> Path:
    save_model(
        tmp_path / "public",
        ModelCard.of_study(STUDY.model_copy(update={"name": "public"}), PrivacyStatement()),
        initial_theta(STUDY.model_copy(update={"seed": 8})),
    )
    return tmp_path / "public"


def test_a_study_begins_from_the_model_that_it_names_and_the_card_says_so(
    coordinator: Coordinator, superlink: FakeSuperLink, public_model: Path
) -> None:
    sha256 = load_card(public_model).parameters_sha256
    named = STUDY.model_copy(update={"start_sha256": sha256})
    folder = studies.want(coordinator, named, 1, public_model)
    assert folder.study == named  # hospitals approve the very file
    shutil.rmtree(public_model)
    start = load_model(folder.path / START_FOLDER).theta
    begun = first_theta(folder.study, folder.path / START_FOLDER)
    assert all(begun[name].tobytes() == leaf.tobytes() for name, leaf in start.items())
    studies.look_after(coordinator, folder)
    CheckpointStore(folder.path / "checkpoints", named.digest()).save(Progress(3, begun, {}))
    superlink.runs["1"] = "finished:completed"
    studies.look_after(coordinator, folder)
    assert folder.state.state == "finished"
    said = load_model(folder.path / "model").card.privacy
    assert said.start is not None
    assert (said.start.study, said.start.parameters_sha256) == ("public", sha256)


def test_a_study_and_a_start_that_do_not_name_each_other_are_refused_and_nothing_is_written(
    coordinator: Coordinator, public_model: Path
) -> None:
    sha256 = load_card(public_model).parameters_sha256
    with pytest.raises(ConfigError, match=f"expected start_sha256: {sha256}"):
        studies.want(coordinator, STUDY, 1, public_model)
    with pytest.raises(ConfigError, match=r"without that model.*--start"):
        studies.want(coordinator, STUDY.model_copy(update={"start_sha256": sha256}), 1)
    other = STUDY.model_copy(update={"start_sha256": "0" * 64})
    with pytest.raises(ConfigError, match="from which the study begins"):
        studies.want(coordinator, other, 1, public_model)
    assert not studies.all_studies(coordinator)
    assert not (coordinator.studies / STUDY.name).exists()
