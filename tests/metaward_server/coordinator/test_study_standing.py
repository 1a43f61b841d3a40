"""What is said of studies: status, cards, and what a SuperLink is asked for it."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fake_superlink import STUDY, FakeSuperLink, commit, request
from metaward.errors import ConfigError
from metaward.model_artefact import ModelCard, load_card, load_model, save_model
from metaward.privacy_promise import PrivacyPromise
from metaward.privacy_statement import PrivacyStatement
from metaward.progress import RoundEvent
from metaward.services import only_one
from metaward.start_model import START_FOLDER
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.coordinator import hospitals, studies
from metaward_server.coordinator.home import Coordinator
from metaward_server.coordinator.keeper import keep_once
from metaward_server.coordinator.standing import print_standing, standing
from metaward_server.coordinator.studies import StudyState
from metaward_server.rounds_log import RoundsLog
from metaward_server.study_run import first_theta, initial_theta


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
    superlink.forget()
    superlink.nodes = {"7": "another federation's"}  # so that north gets another number
    keep_once(coordinator)
    [north] = standing(coordinator, datetime.now(UTC))["hospitals"]
    assert north["promises"] == {"chest": "8 at delta 1.0e-05, dp-sgd"}


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


def test_a_damaged_file_of_a_hospital_does_not_stop_the_studies(
    coordinator: Coordinator, superlink: FakeSuperLink
) -> None:
    (coordinator.hospitals / "a.yaml").write_text("{")
    folder = studies.want(coordinator, STUDY, nodes=1)
    keep_once(coordinator)
    assert folder.state.state == "running"


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


def test_what_stands_in_brackets_is_shown_and_not_taken_for_a_colour(
    coordinator: Coordinator, superlink: FakeSuperLink, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=1)
    folder.write(StudyState(state="failed", nodes=1, reason="[/a]"))
    found = standing(coordinator, datetime.now(UTC))
    print_standing(found | {"address": "[fd00::5]:9443"})
    shown = capsys.readouterr().out
    assert "at [fd00::5]:9443: running" in shown
    assert "[/a]" in shown


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
