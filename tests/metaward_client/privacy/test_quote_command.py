"""A hospital learns what a policy costs before any data is touched."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from metaward import cli
from metaward_client import quote_command, quote_text
from metaward_client.privacy.cross_check import CrossCheck
from metaward_client.privacy.terms import Relation

SUMS = ["--sample-rate", "0.05", "--steps", "5"]
PLAN = ["--rounds", "100", "--target-delta", "1e-5", *SUMS]


@pytest.fixture(autouse=True)
def _only_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("site", "metaward_client.site_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    monkeypatch.setenv("COLUMNS", "160")


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert cli.run(["site", "quote", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, object] = json.loads(captured.out)
    return found


def test_epsilon_is_said_with_all_that_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["site", "quote", *PLAN, "--noise-multiplier", "1"]) == 0
    out = capsys.readouterr().out
    for words in (
        "epsilon 7.5237 at delta 1e-05 for every patient, 100 rounds together; no data was read",
        "all images of one patient together",
        "add or remove one patient",
        "Poisson, every patient with chance 0.05 in every sum",
        "dp-sgd",
        "PLD, dp-accounting 0.6",
        "1 times the clip norm",
        "epsilon 12.1438 (replace one patient)",
    ):
        assert words in out
    assert len(out.splitlines()) <= 24  # one screen


def test_json_holds_the_same_and_what_other_rounds_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = asked(capsys, *PLAN, "--noise-multiplier", "1")
    assert found["epsilon"] == pytest.approx(7.5237, abs=1e-4)
    assert found["epsilon_replace_one"] == pytest.approx(12.1438, abs=1e-4)
    assert found["solved_for"] == "target_epsilon"
    assert (found["unit"], found["sampling"], found["steps"]) == ("patient", "Poisson", 5)
    others = found["other_rounds"]
    assert isinstance(others, list)
    assert [other["rounds"] for other in others] == [25, 50, 100, 200, 400]
    costs = [other["epsilon"] for other in others]
    assert costs == sorted(set(costs))  # each more than the one before
    assert costs[2] == found["epsilon"]


def test_noise_is_solved_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, *PLAN, "--epsilon", "3")
    assert found["solved_for"] == "noise_multiplier"
    assert found["noise_multiplier"] == 1.764
    assert 2.99 < float(str(found["epsilon"])) <= 3


def test_rounds_are_solved_for(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["--noise-multiplier", "1.5", "--epsilon", "2", "--target-delta", "1e-6", *SUMS]
    found = asked(capsys, *plan)
    assert (found["solved_for"], found["rounds"]) == ("rounds", 21)


def test_a_block_is_quoted_under_replace_one_and_once_a_round(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = ["--mechanism", "block", "--sample-rate", "0.5", "--noise-multiplier", "4"]
    found = asked(capsys, *plan, "--rounds", "20", "--target-delta", "1e-5")
    assert found["relation"] == "replace one patient"
    assert found["steps"] == 1
    assert found["epsilon"] == pytest.approx(4.94, abs=0.005)
    assert cli.run(["site", "quote", *plan, "--rounds", "20", "--target-delta", "1e-5"]) == 0
    out = capsys.readouterr().out
    assert "every block of patients with chance 0.5" in out
    assert "beside block releases" not in out


def test_the_number_of_patients_gives_the_target_delta(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["--rounds", "10", "--noise-multiplier", "4", "--patients", "2000"]
    assert asked(capsys, *plan)["target_delta"] == pytest.approx(5e-5)
    assert asked(capsys, *plan, "--target-delta", "1e-6")["target_delta"] == 1e-6


def test_noise_that_promises_nothing_is_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    plan = [*PLAN, "--noise-multiplier", "1", "--sample-rate", "1", "--steps", "100"]
    assert asked(capsys, *plan)["epsilon"] is None
    assert cli.run(["site", "quote", *plan]) == 0
    assert "epsilon no promise at all at delta" in capsys.readouterr().out


def test_what_is_printed_is_never_less_than_the_cost() -> None:
    assert quote_text.number_text(1.00001) == "1.0001"
    assert quote_text.number_text(2.0) == "2.0000"


def test_the_other_accountants_are_asked_where_that_is_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(composition: object, target_delta: float, relation: Relation) -> CrossCheck:
        assert relation is Relation.ADD_OR_REMOVE_ONE
        return CrossCheck(target_delta, relation, 7.5237, 7.5236, 7.5237, 8.2967, None, None)

    monkeypatch.setattr("metaward_client.privacy.cross_check.cross_check", check)
    plan = [*PLAN, "--noise-multiplier", "1"]
    assert "cross_check" not in asked(capsys, *plan)
    assert asked(capsys, *plan, "--cross-check")["cross_check"] == {
        "pld_own_composition": 7.5236,
        "rdp": 8.2967,
        "prv_add_or_remove_one": None,
    }
    assert cli.run(["site", "quote", *plan, "--cross-check"]) == 0
    assert "own composition 7.5236, RDP 8.2967, PRV none" in capsys.readouterr().out


@pytest.mark.slow  # imports Opacus, about 5 s
def test_opacus_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, *PLAN, "--noise-multiplier", "1", "--cross-check")["cross_check"]
    assert isinstance(found, dict)
    assert found["prv_add_or_remove_one"] == pytest.approx(7.5341, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("--rounds 9 --epsilon 3 --noise-multiplier 1", 2, "the third is solved for"),
        ("--rounds 9 --patients 100", 2, "the third is solved for"),
        ("--patients 100", 2, "none of what a plan is made of"),
        ("--rounds 9 --patients 100", 2, "error  --rounds alone"),
        ("--rounds 9 --noise-multiplier 1", 2, "epsilon means nothing without its delta"),
        ("--rounds 9 --noise-multiplier 0 --patients 100", 2, "--noise-multiplier"),
        ("--rounds 9 --noise-multiplier nan --patients 100", 2, "--noise-multiplier"),
        ("--rounds 9 --noise-multiplier 1e-308 --patients 100", 2, "from 0.001 to 1e+06"),
        ("--rounds 9 --noise-multiplier 1e308 --patients 100", 2, "from 0.001 to 1e+06"),
        ("--rounds 9 --epsilon -1 --patients 100", 2, "a number above 0"),
        ("--rounds 9 --epsilon inf --patients 100", 2, "a number above 0"),
        ("--rounds 9 --epsilon 1 --patients 100 --sample-rate 1.1", 2, "at most 1"),
        ("--rounds 9 --epsilon 1 --target-delta 1", 2, "a number between 0 and 1"),
        ("--rounds 9 --epsilon 1 --target-delta 0.01 --patients 100", 2, "1 / (10 patients)"),
        ("--rounds 9 --epsilon 1 --patients 100 --mechanism block --steps 2", 2, "once a round"),
        ("--rounds 0 --epsilon 1 --patients 100", 2, "x>=1"),
        ("--rounds 9 --epsilon 1 --patients 5", 2, "x>=10"),
        ("--noise-multiplier 1 --epsilon 0.5 --patients 100", 4, "Plan more noise"),
        ("--rounds 999999 --sample-rate 1 --epsilon 0.001 --patients 100", 4, "Plan fewer rounds"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: str, code: int, words: str
) -> None:
    assert cli.run(["site", "quote", *arguments.split()]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


SITE = """
name: north
data: {root: .}
privacy:
  mechanism: dp-sgd
  target_epsilon: 4.0
  target_delta: 2.0e-5
  population: 1000
  noise_multiplier: 1.25
  sample_rate: 0.02
  steps_per_round: 3
  rounds: 70
  labels: [opaque, clear]
"""
OF_SITE = {
    "mechanism": "dp-sgd", "target_epsilon": 4.0, "target_delta": 2e-5, "noise_multiplier": 1.25,
    "sample_rate": 0.02, "steps": 3, "solved_for": "rounds",
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> str:
    (tmp_path / "site.yaml").write_text(SITE)
    return str(tmp_path / "site.yaml")


def test_a_sites_policy_is_quoted(site: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, site)
    assert {name: found[name] for name in OF_SITE} == OF_SITE
    typed = "--epsilon 4 --noise-multiplier 1.25 --target-delta 2e-5 --sample-rate 0.02 --steps 3"
    assert found == asked(capsys, *typed.split())
    assert cli.run(["site", "quote", site]) == 0
    assert "70 rounds of one study" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ("--epsilon 2", {"target_epsilon": 2.0}),
        ("--noise-multiplier 2", {"noise_multiplier": 2.0}),
        ("--sample-rate 0.01", {"sample_rate": 0.01}),
        ("--steps 1", {"steps": 1}),
        ("--target-delta 1e-6", {"target_delta": 1e-6}),
        ("--patients 500", {"target_delta": 2e-4}),
        ("--mechanism block --noise-multiplier 4",
         {"mechanism": "block", "steps": 1, "noise_multiplier": 4.0}),
    ],
)  # fmt: skip
def test_options_go_before_a_sites_policy(
    site: str, options: str, changed: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(capsys, site, *options.split())
    assert {name: found[name] for name in OF_SITE} == OF_SITE | changed


def test_with_rounds_the_sites_budget_asks_for_noise_and_with_noise_too_for_epsilon(
    site: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = (site, "--rounds", "4", "--sample-rate", "1", "--steps", "1")
    noise = asked(capsys, *quick)
    assert (noise["solved_for"], noise["target_epsilon"]) == ("noise_multiplier", 4.0)
    cost = asked(capsys, *quick, "--noise-multiplier", "2")
    assert (cost["solved_for"], cost["noise_multiplier"]) == ("target_epsilon", 2.0)


def test_a_site_with_blocks_is_quoted_with_one_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text(
        "name: north\ndata: {root: .}\nprivacy: {mechanism: block, target_epsilon: 8, "
        "target_delta: 1.0e-5, population: 100, noise_multiplier: 4, sample_rate: 0.5}\n"
    )
    found = asked(capsys, str(tmp_path))
    assert (found["mechanism"], found["steps"], found["sample_rate"]) == ("block", 1, 0.5)
    as_dp_sgd = asked(capsys, str(tmp_path), "--mechanism", "dp-sgd")
    assert as_dp_sgd["steps"] == quote_command.DEFAULT_STEPS


@pytest.mark.parametrize(
    ("privacy", "options", "code", "words"),
    [
        ("", "", 2, "no privacy policy"),
        ("privacy: {mechanism: none}", "", 2, "promises nothing at any number of rounds"),
        (SITE[SITE.index("privacy"):], "--target-delta 1e-3", 2, "1 / (10 patients)"),
        (SITE[SITE.index("privacy"):], "--rounds 9 --epsilon 3 --noise-multiplier 1", 2, "two of"),
        (SITE[SITE.index("privacy"):], "--epsilon 0.01", 4, "Plan more noise"),
    ],
)  # fmt: skip
def test_a_site_that_cannot_be_quoted_is_refused(
    tmp_path: Path, privacy: str, options: str, code: int, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "site.yaml").write_text(f"name: north\ndata: {{root: .}}\n{privacy}")
    assert cli.run(["site", "quote", str(tmp_path / "site.yaml"), *options.split()]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_the_example_in_the_help_works(capsys: pytest.CaptureFixture[str]) -> None:
    line = quote_command.EXAMPLE.removeprefix("Example:").split()
    assert line[0] == "metaward"
    assert cli.run(line[1:]) == 0
    assert cli.run(["site", "quote", "--help"]) == 0
    assert "--cross-check" in capsys.readouterr().out


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, metaward_client.quote_command;"
        "print({'torch','numpy','dp_accounting','opacus','scipy','rich.table'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("open_", [["--epsilon", "8"], ["--noise-multiplier", "1"]])
@pytest.mark.parametrize("delta", ["1e-11", "9e-11", "0", "nan", "1"])
def test_a_delta_that_the_accountant_cannot_resolve_is_named(
    capsys: pytest.CaptureFixture[str], open_: list[str], delta: str
) -> None:
    command = ["site", "quote", "--rounds", "100", *SUMS, "--target-delta", delta, *open_]
    assert cli.run(command) == 2
    said = capsys.readouterr().err
    assert f"{float(delta):g}" in said
    assert "where     --target-delta" in said


def test_more_patients_than_the_accountant_resolves_are_no_delta_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["site", "quote", "--rounds", "9", "--epsilon", "8", "--patients", str(10**11)]
    assert cli.run(command) == 2
    assert "--target-delta" in capsys.readouterr().err


def test_where_the_search_ends_it_is_said_that_more_rounds_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = ["--epsilon", "8", "--noise-multiplier", "1e6", "--target-delta", "1e-6", *SUMS]
    assert cli.run(["site", "quote", *plan]) == 0
    assert "1,000,000 or more: the search ends there" in capsys.readouterr().out
    assert asked(capsys, *plan)["rounds_capped"] is True
    plan[3] = "1.5"
    assert asked(capsys, *plan)["rounds_capped"] is False
