"""What Prometheus is told: read from a real folder, over HTTP, and no more than is listed here."""

import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls
from prometheus_client.parser import text_string_to_metric_families

from metaward.cli import run
from metaward.enrolment import new_request
from metaward.errors import FederationError
from metaward.health import Answer
from metaward.model_settings import ModelSettings
from metaward.progress import RoundEvent
from metaward.study import RoundSettings, Study
from metaward_server.coordinator import hospitals, processes, studies
from metaward_server.coordinator.certificates import AUTHORITY_LASTS, BACKDATED, CERTIFICATE_LASTS
from metaward_server.coordinator.home import (
    Coordinator,
    CoordinatorSettings,
    MetricsSettings,
    create,
)
from metaward_server.coordinator.metrics import FAMILIES, CoordinatorCollector
from metaward_server.coordinator.metrics_server import serve
from metaward_server.rounds_log import RoundsLog

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "metaward.rules.yaml"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
STUDY = Study(
    name="chest",
    rounds=9,
    model=ModelSettings(filters=8, image_size=16, groups=2),
    round=RoundSettings(quorum=2),
)
ALLOWED = {
    "metaward_build_info": {"version", "flwr", "python"},
    "metaward_superlink_up": set(),
    "metaward_unreadable": set(),
    "metaward_certificate_expiry_timestamp_seconds": {"certificate"},
    "metaward_hospitals_enrolled": set(),
    "metaward_hospital_online": {"hospital"},
    "metaward_studies": {"state"},
    "metaward_study_state": {"study", "state"},
    "metaward_study_begun_timestamp_seconds": {"study"},
    "metaward_study_rounds_planned": {"study"},
    "metaward_study_rounds": {"study", "result"},
    "metaward_study_last_committed_timestamp_seconds": {"study"},
    "metaward_study_least_updates": {"study"},
    "metaward_study_last_round_asked": {"study"},
    "metaward_study_last_round_admitted": {"study"},
    "metaward_study_last_round_seconds": {"study"},
    "metaward_study_refused_replies": {"study", "reason"},
}
"""A new figure is a decision: nothing of patients, and no number that a hospital sends."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    settings = CoordinatorSettings(
        address="fed.example.org:9443",
        health_port=free_port(),
        metrics=MetricsSettings(port=free_port()),
    )
    return create(tmp_path / "c", settings, NOW)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Return the nodes that Flower's command line shows; they may be changed."""
    shown: list[dict[str, str]] = []

    def ask(_: Coordinator, *arguments: str) -> dict[str, Any]:
        assert arguments == ("supernode", "list")
        return {"nodes": shown}

    monkeypatch.setattr(hospitals, "ask_flower", ask)
    return shown


def enrol(coordinator: Coordinator, name: str, node: str) -> None:
    hospitals.enrol(coordinator, new_request(name, ec.generate_private_key(ec.SECP384R1())))
    path = coordinator.hospitals / f"{name}.yaml"
    path.write_text(path.read_text().replace("node: ''", f"node: '{node}'"))


def closed(index: int, at: float | None, **changes: Any) -> RoundEvent:
    return RoundEvent(index, 9, **({"asked": 3, "admitted": 3, "closed_at": at} | changes))


def told(coordinator: Coordinator, *, up: bool = True) -> dict[tuple[str, ...], float]:
    """Return (name, label values in the order of the list) -> value."""
    collector = CoordinatorCollector(coordinator, ask=lambda name, _: Answer(name, up, ""))
    return {
        (sample.name, *(sample.labels[label] for label in FAMILIES[sample.name][1])): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def test_a_study_is_told_as_its_files_have_it(
    coordinator: Coordinator, nodes: list[dict[str, str]]
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=2)
    log = RoundsLog(folder.path / "rounds.jsonl")
    log.append(closed(0, 1000.0, refused={"norm": 1}))
    log.append(closed(1, 2000.0, refused={"norm": 1, "site-budget": 2}, seconds=7.5))
    log.append(closed(2, 3000.0, void=True, admitted=1, refused={"no-reply": 2}, seconds=60.0))
    folder.write(folder.state.model_copy(update={"state": "running"}))
    found = told(coordinator)
    of_study = {key: value for key, value in found.items() if key[1:2] == ("chest",)}
    begun = of_study.pop(("metaward_study_begun_timestamp_seconds", "chest"))
    assert begun == pytest.approx(datetime.now(UTC).timestamp(), abs=120)
    assert of_study == {
        ("metaward_study_state", "chest", "wanted"): 0,
        ("metaward_study_state", "chest", "running"): 1,
        ("metaward_study_state", "chest", "finished"): 0,
        ("metaward_study_state", "chest", "failed"): 0,
        ("metaward_study_rounds_planned", "chest"): 9,
        ("metaward_study_least_updates", "chest"): 2,
        ("metaward_study_rounds", "chest", "committed"): 2,
        ("metaward_study_rounds", "chest", "void"): 1,
        ("metaward_study_last_committed_timestamp_seconds", "chest"): 2000.0,
        ("metaward_study_last_round_asked", "chest"): 3,
        ("metaward_study_last_round_admitted", "chest"): 1,
        ("metaward_study_last_round_seconds", "chest"): 60.0,
        ("metaward_study_refused_replies", "chest", "norm"): 2,
        ("metaward_study_refused_replies", "chest", "site-budget"): 2,
        ("metaward_study_refused_replies", "chest", "no-reply"): 2,
    }


def test_a_study_without_a_committed_round_has_no_time_of_one(
    coordinator: Coordinator, nodes: list[dict[str, str]]
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=2)
    name = ("metaward_study_last_committed_timestamp_seconds", "chest")
    assert name not in told(coordinator)
    log = RoundsLog(folder.path / "rounds.jsonl")
    log.append(closed(0, None))  # as earlier releases wrote it
    assert name not in told(coordinator)
    log.append(closed(1, 5.0))
    assert told(coordinator)[name] == 5.0


def test_studies_are_counted_by_state_and_a_damaged_one_hides_no_other(
    coordinator: Coordinator, nodes: list[dict[str, str]]
) -> None:
    for name in ("a", "b", "torn"):
        studies.want(coordinator, STUDY.model_copy(update={"name": name}), nodes=1)
    (coordinator.studies / "torn" / "rounds.jsonl").write_text("{\n")
    found = told(coordinator)
    by_state = {key[1]: value for key, value in found.items() if key[0] == "metaward_studies"}
    assert by_state == {"wanted": 2, "running": 0, "finished": 0, "failed": 0}
    assert found["metaward_unreadable",] == 1
    assert ("metaward_study_rounds_planned", "a") in found
    assert not [key for key in found if "torn" in key]


def test_certificates_are_told_with_their_end(
    coordinator: Coordinator, nodes: list[dict[str, str]]
) -> None:
    found = told(coordinator)
    for name, lasts in (("server", CERTIFICATE_LASTS), ("authority", AUTHORITY_LASTS)):
        end = NOW - BACKDATED + lasts
        assert found["metaward_certificate_expiry_timestamp_seconds", name] == end.timestamp()
    assert found["metaward_unreadable",] == 0
    coordinator.certificate.write_text("damaged")
    assert told(coordinator)["metaward_unreadable",] == 1


def test_hospitals_are_there_away_or_unknown(
    coordinator: Coordinator, nodes: list[dict[str, str]]
) -> None:
    for name, node in (("north", "7"), ("south", "8"), ("west", "9")):
        enrol(coordinator, name, node)
    nodes += [{"node-id": "7", "status": "online"}, {"node-id": "8", "status": "offline"}]
    found = told(coordinator)
    online = {key[1]: value for key, value in found.items() if "hospital_online" in key[0]}
    assert online == {"north": 1, "south": 0, "west": 0}
    assert (found["metaward_hospitals_enrolled",], found["metaward_superlink_up",]) == (3, 1)
    away = told(coordinator, up=False)
    assert not [key for key in away if "hospital_online" in key[0]]
    assert (away["metaward_hospitals_enrolled",], away["metaward_superlink_up",]) == (3, 0)


def test_a_superlink_that_goes_away_in_between_leaves_hospitals_unknown(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> dict[str, Any]:
        raise FederationError("no answer")

    monkeypatch.setattr(hospitals, "ask_flower", gone)
    enrol(coordinator, "north", "7")
    found = told(coordinator)
    assert not [key for key in found if "hospital_online" in key[0]]
    assert found["metaward_unreadable",] == 0


def test_a_reason_that_is_not_one_of_ours_is_not_told(
    coordinator: Coordinator, nodes: list[dict[str, str]]
) -> None:
    folder = studies.want(coordinator, STUDY, nodes=2)
    RoundsLog(folder.path / "rounds.jsonl").append(closed(0, 1.0, refused={"patient 4711": 1}))
    assert not [key for key in told(coordinator) if "refused" in key[0]]


@pytest.fixture
def scraped(coordinator: Coordinator, nodes: list[dict[str, str]]) -> Iterator[str]:
    """Return what a coordinator at work answers over HTTP."""
    enrol(coordinator, "north", "7")
    nodes.append({"node-id": "7", "status": "online"})
    folder = studies.want(coordinator, STUDY, nodes=1)
    RoundsLog(folder.path / "rounds.jsonl").append(closed(0, 1.0, refused={"site-data": 1}))
    assert coordinator.settings.metrics is not None
    health = run_health_server_grpc_no_tls(f"127.0.0.1:{coordinator.settings.health_port}")
    server, thread = serve(coordinator, coordinator.settings.metrics)
    try:
        url = f"http://127.0.0.1:{coordinator.settings.metrics.port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            yield answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        health.stop(None).wait()


def test_a_scrape_tells_all_that_is_allowed_and_nothing_else(scraped: str) -> None:
    families = list(text_string_to_metric_families(scraped))
    found = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    assert found == ALLOWED
    values = {
        value
        for family in families
        for sample in family.samples
        for value in sample.labels.values()
    }
    known = {"north", "chest", "server", "authority", "committed", "void", "site-data"}
    known |= {"wanted", "running", "finished", "failed"}
    assert {value for value in values if not re.match(r"\d+\.\d+", value)} == known
    assert "metaward_superlink_up 1.0" in scraped.splitlines()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_finds_nothing_wrong_with_a_scrape(scraped: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_figure_is_in_the_documentation_and_no_other() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(metaward_\w+)` \| (.*?) \|", page, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert documented == {name: set(labels) for name, (_, labels) in FAMILIES.items()}


def test_alerts_ask_for_figures_that_exist() -> None:
    asked = set(re.findall(r"metaward_\w+", RULES.read_text(encoding="utf-8")))
    assert len(asked) > 5
    assert asked <= FAMILIES.keys()


def test_metrics_are_a_process_where_they_are_set_and_only_there(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "find_nginx", lambda: "/bin/true")
    [metrics] = [one for one in processes.services_of(coordinator) if one.name == "metrics"]
    assert metrics.command[-1] == str(coordinator.folder)
    settings = coordinator.settings.model_copy(update={"metrics": None})
    off = Coordinator(coordinator.folder, settings)
    assert "metrics" not in [one.name for one in processes.services_of(off)]


@pytest.mark.parametrize("broken", ["port", "host", "extra"])
def test_a_coordinator_whose_metrics_cannot_be_told_does_not_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    settings = MetricsSettings(host="192.0.2.1" if broken == "host" else "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if broken == "port" else free_port()
        made = CoordinatorSettings(
            address="fed.example.org:9443",
            listen=f"127.0.0.1:{free_port()}",
            superlink_port=free_port(),
            health_port=free_port(),
            metrics=settings.model_copy(update={"port": port}),
        )
        create(tmp_path / "c", made, datetime.now(UTC) - timedelta(days=1))
        if broken == "extra":
            monkeypatch.setattr(processes, "find_spec", lambda _: None)
        assert run(["server", "start", str(tmp_path / "c")]) == 2
    expected = {
        "port": f"metrics.port {port}: another process has that port",
        "host": f"metrics.port {port}: it cannot be bound",
        "extra": "pip install 'metaward[metrics]'",
    }
    assert expected[broken] in capsys.readouterr().err
