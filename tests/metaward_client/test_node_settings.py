"""What a node is started with: the site, its policy, and what was approved there."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from metaward.config import load_settings
from metaward.errors import ConfigError
from metaward.study import Study
from metaward.wire import SiteRefusal
from metaward_client import site_work
from metaward_client.app import app, open_site
from metaward_client.node.approval import MAX_PROPOSALS, ApprovalError, approve, approved_only
from metaward_client.privacy.policy import NoPrivacy
from metaward_client.site_work import SiteAtWork, answer_order
from site_orders import STUDY, a_message, an_order, log_of, raising

SITE_YAML = "name: north\ndata: {root: images}\n"


def a_site(tmp_path: Path, privacy: str) -> dict[str, Any]:
    (tmp_path / "images").mkdir()
    (tmp_path / "site.yaml").write_text(SITE_YAML + privacy)
    return {"site": str(tmp_path), "round-log": "y", "simulated": True}


def test_the_node_says_where_the_site_is(tmp_path: Path) -> None:
    for config in ({}, {"site": "x"}, {"site": 3, "round-log": "y"}):
        with pytest.raises(ConfigError, match="site=PATH round-log=PATH"):
            open_site(config)
    site = open_site(a_site(tmp_path, "privacy: {mechanism: none}\n"))
    assert (site.name, site.round_log, site.policy) == ("north", Path("y"), NoPrivacy())


def test_a_site_whose_file_says_nothing_of_privacy_answers_no_study(tmp_path: Path) -> None:
    node = a_site(tmp_path, "")
    with pytest.raises(ConfigError, match="no privacy policy"):
        open_site(node)
    reply = app(a_message(an_order()), Context(1, 7, node, RecordDict(), {}))
    assert (reply.error.code, reply.error.reason) == (SiteRefusal.STUDY.value, None)


def test_noise_comes_from_the_operating_system_and_is_another_each_time(tmp_path: Path) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    draws = [open_site(node).source.normals(4).tolist() for _ in range(2)]
    assert draws[0] != draws[1]


def test_a_simulation_names_a_policy_file(tmp_path: Path) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    (tmp_path / "p.yaml").write_text(
        "privacy: {mechanism: block, target_epsilon: 8, target_delta: 1.0e-5, population: 100}\n"
    )
    policy = open_site(node | {"policy": str(tmp_path / "p.yaml")}).policy
    assert policy.label == "block release"
    (tmp_path / "p.yaml").unlink()
    with pytest.raises(ConfigError):
        open_site(node | {"policy": str(tmp_path / "p.yaml")})


def test_a_site_whose_accelerator_is_away_refuses_before_a_round_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    private = (
        "privacy: {mechanism: block, target_epsilon: 8, target_delta: 1.0e-5, population: 100,"
        " witness: witness}\ndevice: cuda\n"
    )
    node = a_site(tmp_path, private) | {"round-log": str(tmp_path / "log")}
    monkeypatch.setattr(site_work, "release", raising(AssertionError("a round was charged")))
    assert answer_order(an_order(), open_site(node)) is SiteRefusal.STUDY
    assert "device: cpu" in (tmp_path / "log").read_text()


def test_dp_sgd_is_refused_on_another_device_however_it_is_named(tmp_path: Path) -> None:
    private = (
        "privacy: {mechanism: dp-sgd, target_epsilon: 8, target_delta: 1.0e-5, population: 100,"
        " labels: [a, b], witness: witness}\n"
    )
    node = a_site(tmp_path, private) | {"device": "meta"}
    with pytest.raises(ValueError, match="holds on a CPU alone"):
        open_site(node).consent(STUDY)


def test_a_study_that_nobody_approved_is_refused_before_data_is_read_and_can_then_be_approved(
    tmp_path: Path, site_of: Callable[..., SiteAtWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals, proposals = tmp_path / "approvals", tmp_path / "proposals"
    proposals.mkdir()
    consent = approved_only(approvals, proposals)
    shut = site_of(raising(AssertionError("data was read")), consent=consent)
    order = an_order()
    with monkeypatch.context() as patched:
        patched.setattr(site_work, "expected_shapes", raising(AssertionError("a model was built")))
        assert answer_order(order, shut) is SiteRefusal.APPROVAL
    assert "is not approved here" in log_of(shut)[-1]["reason"]
    assert log_of(shut)[-1]["study"] == STUDY.digest()

    [proposal] = proposals.iterdir()
    approve(approvals, load_settings(proposal, Study), "A. Officer", datetime.now(UTC))
    assert isinstance(answer_order(an_order(), site_of(consent=consent)), RecordDict)
    other = STUDY.model_copy(update={"rounds": STUDY.rounds + 1})
    assert answer_order(an_order(other), shut) is SiteRefusal.APPROVAL


@pytest.mark.parametrize(
    "settings",
    [{}, {"simulated": False}, {"simulated": "true"}, {"approvals": "a"}, {"proposals": "p"}],
)
def test_a_node_that_is_no_simulation_answers_only_what_was_approved(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    del node["simulated"]
    with pytest.raises(ConfigError, match="approvals"):
        open_site(node | settings)


def test_a_simulation_cannot_overrule_the_folders_of_a_hospital(tmp_path: Path) -> None:
    node = a_site(tmp_path, "privacy: {mechanism: none}\n")
    folders = {"approvals": str(tmp_path / "a"), "proposals": str(tmp_path / "p")}
    with pytest.raises(ApprovalError):
        open_site(node | folders).consent(STUDY)


def test_a_coordinator_cannot_fill_the_disk_with_proposals(tmp_path: Path) -> None:
    proposals = tmp_path / "proposals"
    proposals.mkdir()
    consent = approved_only(tmp_path / "approvals", proposals)
    for rounds in range(1, MAX_PROPOSALS + 5):
        with pytest.raises(ApprovalError):
            consent(STUDY.model_copy(update={"rounds": rounds}))
    assert len(list(proposals.iterdir())) == MAX_PROPOSALS


def test_a_node_without_settings_refuses_and_tells_nothing() -> None:
    reply = app(a_message(an_order()), Context(1, 7, {}, RecordDict(), {}))
    assert (reply.error.code, reply.error.reason) == (SiteRefusal.STUDY.value, None)
