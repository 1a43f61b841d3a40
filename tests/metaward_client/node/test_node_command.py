"""`metaward site join, approve, start`, as they are typed."""

import hashlib
import json
import re
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls

from metaward.cli import run
from metaward.enrolment import certificate_fingerprint, read_request, write_yaml
from metaward.model_settings import ModelSettings
from metaward.study import Study
from metaward_client.node import check
from metaward_client.node.approval import Approval, approve, approved_only
from metaward_client.privacy.ledger import Ledger, RoundId
from metaward_client.privacy.policy import DpSgdPolicy
from metaward_client.site_config import read_site_config
from metaward_server.coordinator import hospitals
from metaward_server.coordinator.home import Coordinator, CoordinatorSettings, create

STUDY = Study(name="chest", rounds=5, model=ModelSettings(filters=8, image_size=16, groups=2))
PRIVATE = """\
privacy:
  mechanism: dp-sgd
  target_epsilon: 8.0
  target_delta: 1.0e-4
  population: 1000
  labels: [a, b]
  ledger: {0}/ledger
  witness: {0}/witness
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def site(tmp_path: Path, images: Path) -> Path:
    folder = tmp_path / "north"
    assert run(["site", "init", str(folder), "--name", "north", "--images", str(images)]) == 0
    return folder


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    settings = CoordinatorSettings(name="demo", address="fed.example.org:9443")
    return create(tmp_path / "c", settings, datetime.now(UTC))


def study_file(folder: Path) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY.model_dump(mode="json")))
    return path


def kit_of(site: Path, coordinator: Coordinator) -> Path:
    kit = hospitals.enrol(coordinator, read_request(site / "node" / "enrolment.yaml"))
    write_yaml(site / "kit.yaml", kit)
    return site / "kit.yaml"


@pytest.mark.parametrize(
    "written",
    [
        str.lower,
        lambda said: said.replace(":", ""),
        lambda said: f" {said.replace(':', ' ')}\n",
        lambda said: said.replace(":", "-"),
    ],
)
def test_join_takes_a_kit_whose_fingerprint_was_said_however_it_is_written(
    site: Path, coordinator: Coordinator, written: Callable[[str], str]
) -> None:
    kit = kit_of(site, coordinator)
    fingerprint = certificate_fingerprint(coordinator.ca_certificate.read_bytes())
    said = written(fingerprint)
    assert run(["site", "join", str(site), str(kit), "--fingerprint", said]) == 0
    assert (site / "node" / "ca.crt").read_bytes() == coordinator.ca_certificate.read_bytes()


def test_a_fingerprint_is_the_sha_256_that_other_tools_print(coordinator: Coordinator) -> None:
    pem = coordinator.ca_certificate.read_bytes()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    assert certificate_fingerprint(pem).replace(":", "").lower() == digest


@pytest.mark.parametrize("fingerprint", [[], ["--fingerprint", "AB:CD"], ["--fingerprint", ":"]])
def test_join_refuses_a_kit_whose_fingerprint_is_not_what_was_said(
    site: Path,
    coordinator: Coordinator,
    capsys: pytest.CaptureFixture[str],
    fingerprint: list[str],
) -> None:
    kit = kit_of(site, coordinator)
    assert run(["site", "join", str(site), str(kit), *fingerprint]) == 2
    assert "the kit's fingerprint is" in capsys.readouterr().err
    assert not (site / "node" / "kit.yaml").exists()


def test_join_refuses_a_kit_whose_certificate_was_damaged_on_its_way(
    site: Path, coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = kit_of(site, coordinator)
    kit.write_text(kit.read_text().replace("CERTIFICATE-----\n\n", "CERTIFICATE-----\n\n  !", 1))
    assert run(["site", "join", str(site), str(kit), "--fingerprint", "AB:CD"]) == 2
    said = capsys.readouterr().err
    assert "ca_certificate: must be a certificate in PEM" in said
    assert str(kit) in said
    assert not (site / "node" / "kit.yaml").exists()


def test_approve_shows_the_study_in_words_and_writes_who_agreed(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (site / "site.yaml").open("a") as file:
        file.write(PRIVATE.format(site))
    assert run(["site", "ledger", "create", str(site)]) == 0
    study = study_file(site)
    assert run(["site", "approve", str(site), str(study), "--by", "A. Officer", "--yes"]) == 0
    shown = capsys.readouterr().out
    for part in (STUDY.digest(), "5 rounds", "No image, label", "epsilon 0.000 of 8 is spent"):
        assert part in shown
    [path] = (site / "node" / "approvals").iterdir()
    content = yaml.safe_load(path.read_text())
    assert Approval.model_validate(content, strict=False).approved_by == "A. Officer"
    approved_only(site / "node" / "approvals", site / "node" / "proposals")(STUDY)


def test_approve_takes_a_ledger_that_is_gone_for_no_new_one(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its witness says that there was one, and what was spent is not known any more."""
    with (site / "site.yaml").open("a") as file:
        file.write(PRIVATE.format(site))
    study = study_file(site)
    asked = ["site", "approve", str(site), str(study), "--by", "A. Officer", "--yes"]
    assert run(asked) == 0
    assert "no ledger yet" in capsys.readouterr().out
    (site / "node" / "approvals" / f"{STUDY.digest()}.yaml").unlink()
    assert run(["site", "ledger", "create", str(site)]) == 0
    (site / "ledger").rename(site / "elsewhere")
    assert run(asked) == 4
    assert "the ledger or a part of it is missing" in capsys.readouterr().err
    assert list((site / "node" / "approvals").iterdir()) == []


def test_what_a_study_has_been_charged_already_is_not_counted_again(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (site / "site.yaml").open("a") as file:
        file.write(PRIVATE.format(site))
    asked = ["site", "approve", str(site), str(study_file(site)), "--by", "A. Officer", "--yes"]
    assert run(["site", "ledger", "create", str(site)]) == 0
    policy = read_site_config(site).privacy
    assert isinstance(policy, DpSgdPolicy)

    def said() -> list[str]:
        capsys.readouterr()
        assert run(asked) == 0
        return re.findall(r"epsilon ([0-9.]+) of 8 is spent, with this study ([0-9.]+);",
                          capsys.readouterr().out)  # fmt: skip

    [(before, at_the_end)] = said()
    with Ledger.open(policy.ledger, policy.witness) as ledger:
        for index in range(2):
            ledger.reserve(RoundId(STUDY.digest(), index), policy.terms(), policy.budget)
    [(spent, still_at_the_end)] = said()
    assert float(before) == 0 < float(spent) < float(at_the_end)
    assert still_at_the_end == at_the_end


@pytest.mark.parametrize("by", ["", "  ", 201 * "n", "A.\nOfficer"])
def test_approve_asks_for_a_name_before_it_shows_anything(
    site: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    study = study_file(site)
    capsys.readouterr()
    assert run(["site", "approve", str(site), str(study), "--by", by, "--yes"]) == 2
    shown = capsys.readouterr()
    assert "--by" in shown.err
    assert shown.out == ""
    assert list((site / "node" / "approvals").iterdir()) == []


def test_who_approved_a_study_first_stays(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_file(site)
    for name in ("A. First", "B. Second"):
        assert run(["site", "approve", str(site), str(study), "--by", name, "--yes"]) == 0
    assert "Approved already, by A. First at " in capsys.readouterr().out
    assert run(["site", "log", str(site), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detail"] == "chest, by A. First"
    second = approve(site / "node" / "approvals", STUDY, "B. Second", datetime.now(UTC))
    assert second.approved_by == "A. First"


@pytest.mark.parametrize("command", ["approve", "trial"])
def test_an_empty_study_is_neither_approved_nor_tried(
    site: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (site / "study.yaml").write_text("")
    options = ["--by", "A. Officer", "--yes"] if command == "approve" else []
    assert run(["site", command, str(site), str(site / "study.yaml"), *options]) == 2
    assert "the file is empty" in capsys.readouterr().err


def test_without_a_policy_every_command_says_so_with_one_exit_code(site: Path) -> None:
    [found] = check._privacy(site, read_site_config(site))
    commands = [["start"], ["budget"], ["ledger", "create"]]
    assert {run(["site", *command, str(site)]) for command in commands} == {found.exit_code}


def test_approve_says_what_a_study_begins_from(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_file(site)
    assert run(["site", "approve", str(site), str(study), "--by", "A. Officer", "--yes"]) == 0
    assert "from an untrained model" in capsys.readouterr().out
    named = STUDY.model_copy(update={"start_sha256": "ab" * 32})
    study.write_text(yaml.safe_dump(named.model_dump(mode="json")))
    assert run(["site", "approve", str(site), str(study), "--by", "A. Officer", "--yes"]) == 0
    assert f"from a model with parameters {'ab' * 32}" in capsys.readouterr().out
    assert len(list((site / "node" / "approvals").iterdir())) == 2  # another study


def test_a_study_that_nobody_confirmed_is_not_approved(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    study = study_file(site)
    assert run(["site", "approve", str(site), str(study), "--by", "A. Officer"]) == 130
    assert list((site / "node" / "approvals").iterdir()) == []


def test_start_needs_a_policy_and_a_kit(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["site", "start", str(site)]) == 2
    assert "no privacy policy" in capsys.readouterr().err
    with (site / "site.yaml").open("a") as file:
        file.write("privacy: {mechanism: none}\n")
    assert run(["site", "start", str(site)]) == 2
    assert "no kit" in capsys.readouterr().err


def test_health_is_the_supernodes_own_word(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (site / "site.yaml").open("a") as file:
        file.write(f"health_port: {port}\n")
    assert run(["site", "health", str(site)]) == 5
    assert f"SuperNode: no answer at 127.0.0.1:{port}" in capsys.readouterr().err
    server = run_health_server_grpc_no_tls(f"127.0.0.1:{port}")
    try:
        assert run(["site", "health", str(site)]) == 0
    finally:
        server.stop(None).wait()
    assert capsys.readouterr().out == f"SuperNode: SERVING at 127.0.0.1:{port}\n"


def test_start_refuses_a_health_port_that_another_node_has(
    site: Path, coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (site / "site.yaml").open("a") as file:
            file.write(f"health_port: {port}\nprivacy: {{mechanism: none}}\n")
        kit = kit_of(site, coordinator)
        fingerprint = certificate_fingerprint(coordinator.ca_certificate.read_bytes())
        assert run(["site", "join", str(site), str(kit), "--fingerprint", fingerprint]) == 0
        assert run(["site", "start", str(site)]) == 2
    assert f"health_port {port}: another process has that port" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["join", "{}", "kit.yaml"], ["log", "{}"], ["start", "{}"]])
def test_a_mistyped_site_folder_is_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert run(["site", *(part.format(nowhere) for part in command)]) == 2
    said = capsys.readouterr().err
    assert "there is no such file or folder" in said
    assert nowhere in said
