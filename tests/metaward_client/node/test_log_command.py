"""`metaward site log`: consent, orders and changes of the ledger, in order of time."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from metaward.cli import run
from metaward.model_settings import ModelSettings
from metaward.study import Study
from metaward.wire import RoundOrder, encode_order
from metaward_client.app import open_site
from metaward_client.node.approval import approve
from metaward_client.site_work import answer_order
from private_site import POLICY_YAML

STUDY = Study(name="chest", model=ModelSettings(filters=8, image_size=16, groups=2))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a site whose node refused a study, then approved it, and raised its budget since."""
    (tmp_path / "images").mkdir()
    (tmp_path / "site.yaml").write_text("name: north\ndata: {root: images}\n" + POLICY_YAML)
    assert run(["site", "init", str(tmp_path), "--name", "north"]) == 0
    assert run(["site", "ledger", "create", str(tmp_path)]) == 0
    node = {
        "site": str(tmp_path),
        "round-log": str(tmp_path / "node" / "rounds.jsonl"),
        "approvals": str(tmp_path / "node" / "approvals"),
        "proposals": str(tmp_path / "node" / "proposals"),
    }
    theta = {"w": np.zeros(1, np.float32)}
    answer_order(encode_order(RoundOrder(STUDY, 0, theta)), open_site(node))
    approve(tmp_path / "node" / "approvals", STUDY, "[A.] Officer", datetime.now(UTC))
    answer_order(encode_order(RoundOrder(STUDY, 7, theta)), open_site(node))
    raised = ["--epsilon", "9", "--reason", "a second study"]
    assert run(["site", "ledger", "raise-budget", str(tmp_path), *raised]) == 0
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_it_tells_what_happened_in_order(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["site", "log", str(site), "--json"]) == 0
    events = lines(capsys)
    times = [str(event["time"]) for event in events]
    assert times == sorted(times)
    assert all(time.endswith("+00:00") or time.endswith("Z") for time in times)
    assert {str(event["what"]) for event in events} == {
        "ledger made", "approval", "approved", "protocol", "budget raised",
    }  # fmt: skip
    by_what = {str(event["what"]): event for event in events}
    assert "epsilon 8 at delta 0.0001 to epsilon 9" in str(by_what["budget raised"]["detail"])
    assert "a second study" in str(by_what["budget raised"]["detail"])
    assert by_what["approved"]["study"] == by_what["approval"]["study"] == STUDY.digest()


def test_a_study_and_a_number_of_events_can_be_chosen(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run(["site", "log", str(site), "--json", "--study", STUDY.digest()[:12]])
    chosen = lines(capsys)
    assert chosen
    assert {event["study"] for event in chosen} == {STUDY.digest()}
    run(["site", "log", str(site), "--json", "--last", "1"])
    assert [event["what"] for event in lines(capsys)] == ["budget raised"]


def test_people_read_a_table(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    assert run(["site", "log", str(site)]) == 0
    said = capsys.readouterr().out
    assert "[A.] Officer" in said
    assert STUDY.digest()[:12] in said


def test_a_damaged_ledger_is_said_after_what_the_other_files_say(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = site / "ledger" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"reason"', b'"season"'))
    capsys.readouterr()
    assert run(["site", "log", str(site), "--json"]) == 4
    said = capsys.readouterr()
    assert "approved" in said.out
    assert "budget raised" not in said.out
    assert "ledger" in said.err


def test_a_ledger_that_is_gone_is_said_too(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "ledger").rename(site / "elsewhere")
    capsys.readouterr()
    assert run(["site", "log", str(site), "--json"]) == 4
    said = capsys.readouterr()
    assert "approved" in said.out
    assert "missing" in said.err


def test_a_line_that_a_crash_cut_off_is_not_the_end(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (site / "node" / "rounds.jsonl").open("a") as log:
        log.write('{"time": "2026-')
    capsys.readouterr()
    assert run(["site", "log", str(site), "--json"]) == 0
    assert [event["what"] for event in lines(capsys)].count("unreadable") == 1


def test_a_study_that_nothing_is_known_of_is_said_to_be_that(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["site", "log", str(site), "--study", "chest"]) == 0
    assert capsys.readouterr().out == "Nothing of such a study has happened here yet.\n"
