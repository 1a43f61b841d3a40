import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ledger_faults import TOY, A, B, cost

from metaward import cli
from metaward_client.ledger_command import ledger_of
from metaward_client.privacy.ledger import Ledger, Replay, RoundId, read_ledger
from metaward_client.privacy.ledger import summary as summaries
from metaward_client.privacy.ledger.summary import Accounting

POLICY = """\
name: north
data: {root: images}
privacy:
  mechanism: dp-sgd
  target_epsilon: 8.0
  target_delta: 1.0e-5
  population: 1000
  noise_multiplier: 1.0
  sample_rate: 0.5
  steps_per_round: 5
  labels: [a, b]
  ledger: ledger
  witness: witness
"""
"""One round costs 1.25 of the toy's epsilon: six fit."""

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _only_these_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("site", "metaward_client.site_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    monkeypatch.setenv("COLUMNS", "200")
    toy = Accounting("toy", lambda spent, _, relation: cost(spent, relation), TOY.rounds_within)
    monkeypatch.setattr(summaries, "accounting_of_record", lambda: toy)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "north"
    (folder / "images").mkdir(parents=True)
    (folder / "site.yaml").write_text(POLICY)
    return folder


@pytest.fixture
def ready(site: Path, capsys: Printed) -> Path:
    assert cli.run(["site", "ledger", "create", str(site)]) == 0
    capsys.readouterr()
    return site


def answer(site: Path, study: str, rounds: int) -> None:
    place = ledger_of(site)
    for index in range(rounds):
        with Ledger.open(place.folder, place.witness, accountant=TOY) as ledger:
            reservation = ledger.reserve(RoundId(study, index), place.terms, place.budget)
            assert not isinstance(reservation, Replay)
            ledger.commit(reservation, b"reply")


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


# --- budget ---------------------------------------------------------------------------------------


def test_the_budget_shows_what_is_spent_and_what_is_left(ready: Path, capsys: Printed) -> None:
    answer(ready, A, 2)
    answer(ready, B, 1)
    assert cli.run(["site", "budget", str(ready)]) == 0
    out = capsys.readouterr().out
    assert "epsilon 3.750 of 8 spent at delta 1e-05" in out
    assert "47%" in out
    assert "unit: patient" in out
    assert "relation: add or remove one patient" in out
    assert "sampling: Poisson" in out
    assert "accountant: toy" in out
    assert "costs 1.2500, to 5.000" in out
    assert "Rounds that remain under these terms: 3" in out
    rows = [line.split("│")[1:-1] for line in out.splitlines() if A[:12] in line]
    assert [cell.strip() for cell in rows[0]] == [
        A[:12], "dp-sgd", "2", "2", "1", "0.5", "10", "2.500",
    ]  # fmt: skip


def test_the_budget_as_json_is_one_object_and_nothing_else(ready: Path, capsys: Printed) -> None:
    answer(ready, A, 2)
    assert cli.run(["site", "budget", str(ready), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert len(found.pop("ledger")) == 32
    assert found == {
        "unit": "patient",
        "relation": "add or remove one patient",
        "sampling": "Poisson",
        "accountant": "toy",
        "target_epsilon": 8.0,
        "target_delta": 1e-05,
        "recorded": {"target_epsilon": 8.0, "target_delta": 1e-05},
        "epsilon": 2.5,
        "releases": 2,
        "next_round": {
            "mechanism": "dp-sgd",
            "noise_multiplier": 1.0,
            "sample_rate": 0.5,
            "steps": 5,
            "costs_epsilon": 1.25,
            "epsilon_after": 3.75,
        },
        "rounds_remaining": 4,
        "studies": [
            {
                "study": A,
                "mechanism": "dp-sgd",
                "rounds": 2,
                "answered": 2,
                "noise_multiplier": 1.0,
                "sample_rate": 0.5,
                "max_grad_norm": 3.0,
                "steps": 10,
                "epsilon": 2.5,
            }
        ],
    }


def test_a_budget_that_is_used_up_is_shown_and_ends_with_4(ready: Path, capsys: Printed) -> None:
    answer(ready, A, 6)
    assert cli.run(["site", "budget", str(ready)]) == 4
    captured = capsys.readouterr()
    assert "epsilon 7.500 of 8" in captured.out
    assert "which is refused" in captured.out
    assert "no further round fits" in captured.err
    assert "metaward site ledger raise-budget" in captured.err
    assert cli.run(["site", "budget", str(ready), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["rounds_remaining"] == 0


def test_the_smaller_budget_holds(ready: Path, capsys: Printed) -> None:
    policy = ready / "site.yaml"
    for epsilon, remain in ((4.0, 3), (80.0, 6)):
        policy.write_text(POLICY.replace("target_epsilon: 8.0", f"target_epsilon: {epsilon}"))
        assert cli.run(["site", "budget", str(ready), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["target_epsilon"] == min(epsilon, 8.0)
        assert found["rounds_remaining"] == remain


def test_the_smaller_delta_holds(ready: Path, capsys: Printed) -> None:
    for delta in (1e-6, 5e-5):
        (ready / "site.yaml").write_text(POLICY.replace("1.0e-5", f"{delta:.1e}"))
        assert cli.run(["site", "budget", str(ready), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["target_delta"] == min(delta, 1e-5)


def test_a_block_release_that_comes_next_is_accounted_as_it_would_be(
    ready: Path, capsys: Printed
) -> None:
    answer(ready, A, 1)
    block = POLICY.replace("dp-sgd", "block").replace("  steps_per_round: 5\n", "")
    (ready / "site.yaml").write_text(block.replace("  labels: [a, b]\n", "  blocks: 8\n"))
    assert cli.run(["site", "budget", str(ready), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["relation"] == "replace one patient"
    assert (found["epsilon"], found["rounds_remaining"]) == (5.0, 3)


@pytest.mark.parametrize("name", ["budget.svg", "budget.png"])
def test_a_plot_is_drawn(ready: Path, tmp_path: Path, name: str) -> None:
    answer(ready, A, 2)
    plot = tmp_path / name
    assert cli.run(["site", "budget", str(ready), "--plot", str(plot)]) == 0
    start = plot.read_bytes()[:4]
    assert start == (b"\x89PNG" if name.endswith("png") else b"<?xm")
    if name.endswith("svg"):
        drawn = plot.read_text()
        for text in ("budget 8", "releases of all studies", "unit: patient", "accountant: toy"):
            assert text in drawn


def test_a_plot_of_an_empty_ledger_is_drawn(ready: Path, tmp_path: Path) -> None:
    assert cli.run(["site", "budget", str(ready), "--plot", str(tmp_path / "budget.svg")]) == 0


@pytest.mark.parametrize("name", ["budget.pdf", "budget", "nowhere/budget.svg"])
def test_a_plot_of_another_kind_or_nowhere_ends_with_2(
    ready: Path, tmp_path: Path, name: str, capsys: Printed
) -> None:
    assert cli.run(["site", "budget", str(ready), "--plot", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert ".svg or .png" in captured.err
    assert captured.out == ""


def test_the_curve_goes_from_nothing_to_what_is_spent(ready: Path) -> None:
    answer(ready, A, 2)
    answer(ready, B, 1)
    state = read_ledger(ready / "ledger", ready / "witness")
    toy = summaries.accounting_of_record()
    curve = summaries.epsilon_curve(state, 1e-5, state.relation, toy)
    assert curve == [(0, 0.0), (1, 1.25), (2, 2.5), (3, 3.75)]
    place = ledger_of(ready)
    summary = summaries.summarise(state, place.budget, place.terms, toy)
    assert summaries.forecast(state, summary, toy) == [(3, 3.75), (4, 5.0), (5, 6.25), (6, 7.5)]


def test_the_curve_rises_by_what_each_release_costs_in_their_order(ready: Path) -> None:
    answer(ready, A, 1)
    cheaper = POLICY.replace("noise_multiplier: 1.0", "noise_multiplier: 2.0")
    (ready / "site.yaml").write_text(cheaper)
    answer(ready, B, 2)
    state = read_ledger(ready / "ledger", ready / "witness")
    toy = summaries.accounting_of_record()
    curve = summaries.epsilon_curve(state, 1e-5, state.relation, toy)
    assert curve == [(0, 0.0), (1, 1.25), (2, 1.875), (3, 2.5)]


def test_the_budget_is_shown_while_a_round_runs(ready: Path) -> None:
    place = ledger_of(ready)
    with Ledger.open(place.folder, place.witness, accountant=TOY) as ledger:
        ledger.reserve(RoundId(A, 0), place.terms, place.budget)
        assert cli.run(["site", "budget", str(ready)]) == 0
        assert cli.run(["site", "ledger", "verify", str(ready)]) == 0


def test_an_older_copy_of_the_ledger_ends_with_4(ready: Path, capsys: Printed) -> None:
    shutil.copytree(ready / "ledger", ready / "older")
    answer(ready, A, 1)
    shutil.rmtree(ready / "ledger")
    (ready / "older").rename(ready / "ledger")
    assert cli.run(["site", "budget", str(ready)]) == 4
    assert "shortened or copied back" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["budget", "ledger create", "ledger verify", "ledger accept-clock", "ledger raise-budget"],
)
def test_help_has_an_example(command: str, capsys: Printed) -> None:
    assert cli.run(["site", *command.split(), "--help"]) == 0
    assert f"Example:  metaward site {command} /data/north" in capsys.readouterr().out
