"""Who watches a study from the command line is told what happens, and why nothing does."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from metaward.cli import run
from metaward.errors import FederationError
from metaward.privacy_promise import PrivacyPromise
from metaward.progress import RoundEvent
from metaward.study import Study
from metaward_server import server_command
from metaward_server.coordinator import studies
from metaward_server.coordinator.home import open_coordinator
from metaward_server.coordinator.studies import StudyState
from metaward_server.rounds_log import RoundsLog

WAITING = "No round has closed yet. The first begins when 3 hospitals are online"


@dataclass
class Watched:
    """A study's folder that is found running a few times, and then finished."""

    path: Path
    looks: int = 4
    study: Study = dataclasses.field(default_factory=Study)

    @property
    def state(self) -> StudyState:
        self.looks -= 1
        return StudyState(state="running" if self.looks else "finished", nodes=3)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_command, "POLL_S", 0.0)
    monkeypatch.setattr(server_command, "PATIENCE_S", -1.0)


def test_while_no_hospital_is_there_it_is_said_once_what_a_study_waits_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server_command._follow(Watched(tmp_path))  # type: ignore[arg-type]  # a stand-in
    said = capsys.readouterr().out
    assert said.count(WAITING) == 1
    assert said.endswith("model\n")


def test_nothing_is_said_of_waiting_once_a_round_has_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = RoundEvent(0, 9, asked=4, admitted=3, refused={}, refused_nodes={}, delta_norm=0.5)
    RoundsLog(tmp_path / "rounds.jsonl").append(event)
    server_command._follow(Watched(tmp_path))  # type: ignore[arg-type]  # a stand-in
    said = capsys.readouterr().out
    assert "round 1/" in said
    assert WAITING not in said


def clipped_round(index: int) -> RoundEvent:
    said = PrivacyPromise("dp-sgd", 8.0, 1e-5, "add or remove one patient").to_settings()
    return RoundEvent(
        index, 9, asked=1, admitted=1, refused={}, refused_nodes={}, delta_norm=0.5,
        promises={"7": said},
    )  # fmt: skip


@dataclass
class Growing(Watched):
    """A round closes at each look but the last."""

    @property
    def state(self) -> StudyState:
        found = super().state
        if found.state == "running":
            RoundsLog(self.path / "rounds.jsonl").append(clipped_round(3 - self.looks))
        return found


def test_a_step_too_slow_for_clipped_updates_is_said_once_and_after_the_first_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server_command._follow(Growing(tmp_path))  # type: ignore[arg-type]  # a stand-in
    lines = capsys.readouterr().out.splitlines()
    told = [number for number, line in enumerate(lines) if "This study's step is slow" in line]
    assert told == [1]
    assert [line[:8] for line in lines if line.startswith("round")] == [
        "round 1/",
        "round 2/",
        "round 3/",
    ]


def test_of_a_study_that_has_finished_no_step_is_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RoundsLog(tmp_path / "rounds.jsonl").append(clipped_round(0))
    server_command._follow(Watched(tmp_path, looks=1))  # type: ignore[arg-type]  # a stand-in
    assert "slow" not in capsys.readouterr().out


@dataclass
class Failed(Watched):
    """A study that is found failed."""

    @property
    def state(self) -> StudyState:
        return StudyState(state="failed", nodes=1, reason="all rounds were void: 1")


def test_who_watches_a_study_of_void_rounds_fail_is_not_sent_to_resume_it(tmp_path: Path) -> None:
    void = dataclasses.replace(clipped_round(0), admitted=0, promises={}, void=True)
    RoundsLog(tmp_path / "rounds.jsonl").append(void)
    with pytest.raises(FederationError, match="all rounds were void") as refused:
        server_command._follow(Failed(tmp_path, study=Study(rounds=1)))  # type: ignore[arg-type]
    assert "anew under another name" in str(refused.value)
    assert "resume /" not in str(refused.value)


@pytest.mark.parametrize(
    ("nodes", "needed", "said"),
    [
        (1, 1, "when 1 hospital is online; metaward"),
        (1, 3, "when 3 hospitals are online; metaward"),
        (4, 2, "when 4 hospitals are online, or with fewer, at least 2, after round.deadline_s;"),
    ],
)
def test_so_many_hospitals_are_named_as_a_study_waits_for(
    nodes: int, needed: int, said: str
) -> None:
    assert said in server_command._waits_for(nodes, needed)


@pytest.mark.parametrize("options", [[], ["--nodes", "1"]])
def test_a_study_that_needs_more_hospitals_than_are_enrolled_says_so_and_waits_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    home = str(tmp_path / "c")
    assert run(["server", "init", home, "--address", "a.example:9443"]) == 0
    study = tmp_path / "study.yaml"
    study.write_text("name: chest\nround: {quorum: 3}\n")
    assert run(["server", "run", home, str(study), "--no-follow", *options]) == 0
    assert "Hospitals that a round needs: 3; that are enrolled: 0" in capsys.readouterr().out
    assert studies.find(open_coordinator(tmp_path / "c"), "chest").state.nodes == 3


def test_who_stops_watching_is_told_that_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        server_command._follow(Watched(tmp_path / "studies" / "chest"))  # type: ignore[arg-type]  # a stand-in
    said = capsys.readouterr().out
    assert f"The study goes on. To watch it again: metaward server resume {tmp_path} chest" in said


def test_an_empty_study_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path / "c")
    assert run(["server", "init", home, "--address", "a.example:9443"]) == 0
    (tmp_path / "study.yaml").write_text("")
    assert run(["server", "run", home, str(tmp_path / "study.yaml"), "--no-follow"]) == 2
    assert "the file is empty" in capsys.readouterr().err
