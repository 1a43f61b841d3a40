"""The pre-flight: each thing that is wrong is one line with a next step, and nothing is changed."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from dicom_factory import write_dicom
from metaward.cli import run
from metaward.enrolment import Kit
from metaward.errors import DataError, FederationError, PrivacyError
from metaward_client.node import check as preflight
from metaward_client.node.check import Finding, require_all
from metaward_client.node.coordinator_check import look_at_coordinator
from metaward_client.node.node_folder import NodeFolder, create_node, join, own_public_key
from metaward_client.privacy.ledger.by_a_person import raise_budget
from metaward_client.privacy.policy import ProtectedSettings
from metaward_client.privacy.terms import Budget
from metaward_client.site_config import read_site_config
from metaward_server.coordinator.certificates import (
    Issued,
    new_authority,
    new_server_certificate,
)
from private_site import POLICY_YAML
from proxied_coordinator import AUTHORITY, NOW, coordinator, server


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    (tmp_path / "images").mkdir()
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images}\n")
    return create_node(tmp_path / "node", "north")


def findings(node: NodeFolder, address: str, authority: Issued = AUTHORITY) -> dict[str, Finding]:
    kit = Kit(
        hospital="north",
        federation="demo",
        address=address,
        public_key=own_public_key(node),
        ca_certificate=authority.certificate.decode(),
    )
    join(node, kit, "north")
    config = read_site_config(node.path.parent)
    return {finding.name: finding for finding in preflight._node(node.path, config)}


def test_a_coordinator_that_is_in_order_is_three_times_ok(tmp_path: Path, node: NodeFolder) -> None:
    with coordinator(tmp_path, server()) as address:
        found = findings(node, address)
    states = {name: found[name].state for name in ("certificate", "coordinator", "clock")}
    assert states == {"certificate": "ok", "coordinator": "ok", "clock": "ok"}
    assert found["studies"].state == "warn"


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ({"fleet": 502}, "coordinator", "no SuperLink behind it"),
        ({"fleet": 404}, "coordinator", "no SuperLink behind it"),
        ({"control": 415}, "coordinator", "others could start code"),
        ({"ahead_s": 86_400.0}, "clock", "behind the coordinator's"),
        ({"ahead_s": -86_400.0}, "clock", "ahead of the coordinator's"),
    ],
)
def test_what_is_wrong_at_the_coordinator_is_said(
    tmp_path: Path, node: NodeFolder, options: dict[str, float], name: str, said: str
) -> None:
    with coordinator(tmp_path, server(), **options) as address:  # type: ignore[arg-type]
        found = findings(node, address)[name]
    assert (found.state, found.exit_code) == ("wrong", 5)
    assert said in found.said
    assert found.next_step


@pytest.mark.parametrize(
    ("issued", "step"),
    [
        (
            lambda: new_server_certificate(new_authority("demo", NOW), "127.0.0.1", NOW),
            "Do not go on: somebody may stand between.",
        ),
        (
            lambda: new_server_certificate(AUTHORITY, "127.0.0.1", NOW - timedelta(days=800)),
            "the coordinator has to renew; the kit stays",
        ),
        (
            lambda: new_server_certificate(AUTHORITY, "127.0.0.1", NOW + timedelta(days=2)),
            "Is the clock right?",
        ),
    ],
    ids=["of another authority", "expired", "of the day after tomorrow"],
)
def test_a_certificate_that_is_not_accepted_is_said_with_what_to_do(
    tmp_path: Path, node: NodeFolder, issued: Callable[[], Issued], step: str
) -> None:
    with coordinator(tmp_path, issued()) as address:
        found = findings(node, address)["coordinator"]
    assert (found.state, found.exit_code) == ("wrong", 5)
    assert "certificate is not accepted" in found.said
    assert step in found.next_step


def test_a_site_yaml_that_allows_more_than_its_ledger_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    file, text = tmp_path / "site.yaml", "name: north\ndata: {root: images}\n" + POLICY_YAML
    file.write_text(text)
    assert run(["site", "ledger", "create", str(tmp_path)]) == 0
    file.write_text(text.replace("target_epsilon: 8.0", "target_epsilon: 9.0"))
    [found] = preflight._privacy(tmp_path, read_site_config(file))
    assert (found.state, found.exit_code) == ("wrong", 4)
    assert "site.yaml allows epsilon 9" in found.said
    assert "raise-budget" in found.next_step


def test_a_ledger_whose_witness_was_copied_back_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    file = tmp_path / "site.yaml"
    file.write_text("name: north\ndata: {root: images}\n" + POLICY_YAML)
    assert run(["site", "ledger", "create", str(tmp_path)]) == 0
    config = read_site_config(file)
    policy = config.privacy
    assert isinstance(policy, ProtectedSettings)
    assert policy.witness is not None
    head = (policy.witness / "head").read_bytes()
    for epsilon in (9.0, 10.0):
        to = Budget(epsilon, policy.budget.target_delta)
        raise_budget(policy.ledger, policy.witness, to, "a test")
    [before] = preflight._privacy(tmp_path, config)
    assert before.state == "ok"
    (policy.witness / "head").write_bytes(head)
    [found] = preflight._privacy(tmp_path, config)
    assert (found.state, found.exit_code) == ("wrong", 4)
    assert "3 entries" in found.said


def test_a_certificate_that_ends_soon_is_a_warning(tmp_path: Path, node: NodeFolder) -> None:
    with coordinator(tmp_path, server(NOW - timedelta(days=715))) as address:
        assert findings(node, address)["certificate"].state == "warn"


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_an_authority_that_is_damaged_or_gone_is_a_line_too(
    tmp_path: Path, node: NodeFolder, content: bytes | None
) -> None:
    node.ca_certificate.unlink(missing_ok=True)
    if content is not None:
        node.ca_certificate.write_bytes(content)
    [found] = look_at_coordinator("127.0.0.1:1", node.ca_certificate)
    assert (found.name, found.state, found.exit_code) == ("coordinator", "wrong", 2)
    assert str(node.ca_certificate) in found.said
    assert "metaward site join" in found.next_step


def test_an_address_where_nobody_listens_is_said(tmp_path: Path, node: NodeFolder) -> None:
    with coordinator(tmp_path, server()) as address:
        pass
    found = findings(node, address)["coordinator"]
    assert (found.state, "cannot be reached" in found.said) == ("wrong", True)


def test_the_same_picture_under_two_patients_is_a_warning() -> None:
    images = np.zeros((3, 1, 4, 4), dtype=np.float16)
    images[2] = 1.0
    assert preflight._leakage(images, [0, 0, 1]).state == "ok"  # twice, but of one patient
    assert preflight._leakage(images, [0, 1, 2]).state == "warn"


@pytest.mark.parametrize("policy", [POLICY_YAML, "privacy: {mechanism: none}\n", ""])
def test_images_that_two_patients_claim_are_a_warning_under_a_mechanism(
    tmp_path: Path, policy: str
) -> None:
    images = [("a", "P1", "same"), ("a", "P2", "same"), ("a", "P1", "x"), ("b", "P3", "y")]
    for number, (label, patient, instance) in enumerate(images):
        file = tmp_path / "images" / label / f"{number}.dcm"
        write_dicom(path=file, patient_id=patient, instance=instance)
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images}\n" + policy)
    config = read_site_config(tmp_path / "site.yaml")
    found = {f.name: f for f in preflight._data(tmp_path, config)}
    assert found["data"].state == "ok"
    assert ("identifiers" in found) == (policy == POLICY_YAML)
    if policy == POLICY_YAML:
        assert found["identifiers"].state == "warn"
        assert "2 files left out" in found["identifiers"].said
        assert "as one group" in found["identifiers"].said


@pytest.mark.parametrize(
    ("listed", "state", "words"),
    [
        ("[a, b]", None, ""),
        ("[a, b, B]", "warn", "no image has one of these labels of privacy.labels: B"),
        ("[A, B]", "wrong", "no image has a label of privacy.labels; they have: a, b"),
    ],
)
def test_a_label_of_the_policy_that_no_image_has_is_said_before_rounds_are_charged_for_it(
    tmp_path: Path, listed: str, state: str | None, words: str
) -> None:
    for label in "ab":
        write_dicom(path=tmp_path / "images" / label / "x.dcm", patient_id=label, instance=label)
    policy = POLICY_YAML.replace("[a, b]", listed)
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images}\n" + policy)
    found = {f.name: f for f in preflight._data(tmp_path, read_site_config(tmp_path / "site.yaml"))}
    said = found.get("public list")
    assert (said and said.state) == state
    if said is not None:
        assert said.said == words
        assert "spelt otherwise" in said.next_step


def test_a_site_without_policy_node_or_data_gets_a_line_for_each(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images}\n")
    before = sorted(tmp_path.rglob("*.yaml"))
    found = {f.name: f for f in preflight.check(tmp_path, tmp_path / "node")}
    assert {name for name, f in found.items() if f.state == "wrong"} == {"node", "data", "privacy"}
    assert all(f.next_step for f in found.values() if f.state != "ok")
    assert sorted(tmp_path.rglob("*.yaml")) == before


def test_the_exit_code_is_that_of_the_first_thing_that_is_wrong() -> None:
    fine = Finding("a", "ok", "")
    require_all([fine, Finding("b", "warn", "", "x")])
    for code, kind in ((3, DataError), (4, PrivacyError), (5, FederationError)):
        with pytest.raises(kind, match="2 of 3 checks failed") as raised:
            require_all(
                [fine, Finding("b", "wrong", "", "x", code), Finding("c", "wrong", "", "y", 2)]
            )
        assert raised.value.exit_code == code


def test_the_device_is_named_and_one_that_is_not_there_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "Card 9")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    unused, used = preflight._device("cpu"), preflight._device("cuda")
    assert (unused.state, used.state) == ("ok", "ok")
    assert "Card 9 is not used" in unused.said
    assert used.said == "cuda: Card 9"
    missing = preflight._device("cuda:1")
    assert (missing.state, missing.exit_code) == ("wrong", 2)
    assert "device: cpu" in missing.next_step
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert preflight._device("cpu").said.startswith("cpu, ")


def test_a_study_that_was_approved_in_the_end_did_not_ask_in_vain(
    tmp_path: Path, node: NodeFolder
) -> None:
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        (node.proposals / name).write_text("")
    node.approvals.mkdir(exist_ok=True)
    (node.approvals / "b.yaml").write_text("")
    with coordinator(tmp_path, server()) as address:
        studies = findings(node, address)["studies"]
    assert (studies.state, studies.said) == ("ok", "1 approved, 2 asked in vain")
