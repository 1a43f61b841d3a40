"""`metaward site budget`: what is spent, what is left, and how it is drawn."""

import json
import shutil
from pathlib import Path

import pytest
from ledger_place import TOY, A, B
from ledger_site import POLICY, Printed, answer

from metaward import cli
from metaward_client.ledger_command import ledger_of
from metaward_client.privacy.ledger import Ledger, RoundId, read_ledger
from metaward_client.privacy.ledger import summary as summaries


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
