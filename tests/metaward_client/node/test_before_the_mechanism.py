"""Answers that left without a mechanism are in no ledger: who makes or checks one hears of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metaward.cli import run
from metaward.errors import DataError
from metaward_client.node import check as preflight
from metaward_client.node.node_folder import NodeFolder
from metaward_client.site_work import answer_order
from private_site import POLICY_YAML, TOY, create_ledger, dp_sgd
from site_orders import an_order, raising


@pytest.fixture
def answered(site_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site that answered two rounds without a mechanism, refused one, answered one with."""
    monkeypatch.setattr("metaward_client.privacy.ledger.ledger.accountant_of_record", lambda: TOY)
    site = tmp_path / "north"
    log = NodeFolder(site / "node").round_log
    for index in (0, 1):
        answer_order(an_order(round_index=index), replace(site_of(), round_log=log))
    refusing = site_of(raising(DataError("2 patients")))
    answer_order(an_order(round_index=2), replace(refusing, round_log=log))
    policy = dp_sgd(tmp_path / "elsewhere")
    create_ledger(policy)
    answer_order(an_order(round_index=3), replace(site_of(policy=policy), round_log=log))
    with log.open("ab") as file:
        file.write(b'{"time": "2026-')
    (site / "images").mkdir()
    (site / "site.yaml").write_text("name: north\ndata: {root: images}\n" + POLICY_YAML)
    return site


def test_who_makes_a_ledger_hears_what_it_does_not_count(
    answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["site", "ledger", "create", str(answered / "site.yaml")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "patients of whom nothing was released without a mechanism" in said
    assert "log has 2 answers that were sent under mechanism none" in said


def test_a_site_without_such_answers_hears_the_condition_alone(
    answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    NodeFolder(answered / "node").round_log.unlink()
    assert run(["site", "ledger", "create", str(answered)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "patients of whom nothing was released without a mechanism" in said
    assert "mechanism none" not in said


@pytest.mark.parametrize("policy", [POLICY_YAML, "privacy: {mechanism: none}\n", ""])
def test_a_check_warns_of_them_where_a_mechanism_promises_something(
    answered: Path, policy: str
) -> None:
    (answered / "site.yaml").write_text("name: north\ndata: {root: images}\n" + policy)
    found = {f.name: f for f in preflight.check(answered, answered / "node")}
    assert ("unprotected" in found) == (policy == POLICY_YAML)
    if policy == POLICY_YAML:
        assert found["unprotected"].state == "warn"
        assert "2 answers were sent under mechanism none" in found["unprotected"].said
