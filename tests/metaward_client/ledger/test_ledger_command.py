"""`metaward site ledger`: what it says, and how it ends."""

import json
from pathlib import Path

import pytest
from ledger_place import TOY, A
from ledger_site import Printed, answer

from metaward import cli
from metaward_client.ledger_command import ledger_of
from metaward_client.privacy.ledger import Ledger, RoundId, read_ledger


def test_create_says_where_ledger_and_witness_are(site: Path, capsys: Printed) -> None:
    assert cli.run(["site", "ledger", "create", str(site)]) == 0
    out = capsys.readouterr().out
    assert str(site / "ledger") in out
    assert str(site / "witness") in out
    assert "an older copy of both is not" in out
    assert read_ledger(site / "ledger", site / "witness").budget.target_epsilon == 8.0


def test_create_makes_no_second_ledger(ready: Path, capsys: Printed) -> None:
    assert cli.run(["site", "ledger", "create", str(ready)]) == 4
    assert "a ledger stands here already" in capsys.readouterr().err


def test_verify_says_what_it_verified(ready: Path, capsys: Printed) -> None:
    answer(ready, A, 2)
    assert cli.run(["site", "ledger", "verify", str(ready)]) == 0
    assert "Entries: 7; releases: 2; studies: 1;" in capsys.readouterr().out
    assert cli.run(["site", "ledger", "verify", str(ready), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is True
    assert (found["entries"], found["releases"], found["studies"]) == (7, 2, 1)


@pytest.mark.parametrize("command", [["ledger", "verify"], ["budget"]])
@pytest.mark.parametrize("damage", ["ledger/ledger.jsonl", "witness/head", "witness/key"])
def test_a_damaged_ledger_ends_with_4_and_a_next_step(
    ready: Path, command: list[str], damage: str, capsys: Printed
) -> None:
    path = ready / damage
    path.write_bytes(path.read_bytes()[:-1])
    assert cli.run(["site", *command, str(ready)]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Privacy error" in captured.err
    assert "treat the whole budget of these patients as spent" in captured.err


@pytest.mark.parametrize("command", [["ledger", "verify"], ["budget"]])
@pytest.mark.parametrize("change", ["witness copied back", "garbage"])
def test_looking_at_a_ledger_that_was_changed_ends_with_4_and_no_figure(
    ready: Path, command: list[str], change: str, capsys: Printed
) -> None:
    head = (ready / "witness/head").read_bytes()
    answer(ready, A, 3)
    if change == "garbage":
        with (ready / "ledger/ledger.jsonl").open("ab") as file:
            file.write(b"garbage\n")
    else:
        (ready / "witness/head").write_bytes(head)
    assert cli.run(["site", *command, str(ready)]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "treat the whole budget of these patients as spent" in captured.err


def test_a_damaged_stored_answer_ends_verify_with_4(ready: Path, capsys: Printed) -> None:
    answer(ready, A, 1)
    (ready / f"ledger/replies/{A}.0.reply").write_bytes(b"other")
    assert cli.run(["site", "ledger", "verify", str(ready)]) == 4
    assert "the stored reply was altered" in capsys.readouterr().err


def test_a_missing_ledger_is_not_made_by_looking(site: Path, capsys: Printed) -> None:
    for command in (["budget"], ["ledger", "verify"]):
        assert cli.run(["site", *command, str(site)]) == 4
        assert "Privacy error  the ledger or a part of it is missing" in capsys.readouterr().err
    assert not (site / "ledger").exists()


@pytest.mark.parametrize("privacy", ["", "privacy: {mechanism: none}\n"])
def test_a_site_without_a_mechanism_has_no_ledger(
    site: Path, privacy: str, capsys: Printed
) -> None:
    (site / "site.yaml").write_text("name: north\ndata: {root: images}\n" + privacy)
    for command in (["budget"], ["ledger", "create"], ["ledger", "verify"]):
        assert cli.run(["site", *command, str(site)]) == 2
        assert "mechanism" in capsys.readouterr().err


def test_a_person_raises_the_budget_with_a_reason(ready: Path, capsys: Printed) -> None:
    command = ["site", "ledger", "raise-budget", str(ready), "--epsilon", "10"]
    assert cli.run([*command, "--reason", ""]) == 2
    assert cli.run(command) == 2
    capsys.readouterr()
    assert cli.run([*command, "--reason", "decision 114"]) == 0
    out = capsys.readouterr().out
    assert "from epsilon 8, delta 1e-05 to epsilon 10, delta 1e-05" in out
    assert "site.yaml allows epsilon 8" in out
    assert "While it allows less, that holds" in out
    assert read_ledger(ready / "ledger", ready / "witness").budget.target_epsilon == 10.0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--epsilon", "1000", "target_epsilon: must be less than or equal to 100"),
        ("--epsilon", "nan", "target_epsilon: must be a finite number"),
        ("--epsilon", "inf", "target_epsilon: must be a finite number"),
        ("--target-delta", "0.5", "must be at most 1 / (10 population)"),
        ("--target-delta", "nan", "target_delta: must be a finite number"),
    ],
)
def test_what_site_yaml_could_never_ask_is_not_recorded(
    ready: Path, capsys: Printed, option: str, value: str, said: str
) -> None:
    command = ["site", "ledger", "raise-budget", str(ready), option, value, "--reason", "J. Doe"]
    capsys.readouterr()
    assert cli.run(command) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert f"where     {option}\n" in printed
    assert cli.run(["site", "ledger", "verify", str(ready), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 1


def test_nothing_to_raise_ends_with_2(ready: Path, capsys: Printed) -> None:
    command = ["site", "ledger", "raise-budget", str(ready), "--reason", "decision 114"]
    assert cli.run(command) == 2
    assert cli.run([*command, "--epsilon", "7"]) == 2
    assert "more than the recorded epsilon 8" in capsys.readouterr().err


def test_accept_clock_says_that_there_is_nothing_to_accept(ready: Path, capsys: Printed) -> None:
    command = ["site", "ledger", "accept-clock", str(ready), "--reason", "battery"]
    assert cli.run(command) == 2
    assert "There is nothing to accept" in capsys.readouterr().err


def test_a_person_accepts_the_clock(ready: Path, capsys: Printed) -> None:
    from datetime import UTC, datetime, timedelta

    place = ledger_of(ready)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with Ledger.open(place.folder, place.witness, accountant=TOY, clock=lambda: tomorrow) as ledger:
        ledger.reserve(RoundId(A, 0), place.terms, place.budget)
    assert cli.run(["site", "budget", str(ready)]) == 4
    assert "metaward site ledger accept-clock" in capsys.readouterr().err
    command = ["site", "ledger", "accept-clock", str(ready), "--reason", "battery"]
    assert cli.run(command) == 0
    assert cli.run(["site", "budget", str(ready)]) == 0


@pytest.mark.parametrize(
    "command",
    ["budget", "ledger create", "ledger verify", "ledger accept-clock", "ledger raise-budget"],
)
def test_help_has_an_example(command: str, capsys: Printed) -> None:
    assert cli.run(["site", *command.split(), "--help"]) == 0
    assert f"Example:  metaward site {command} /data/north" in capsys.readouterr().out
