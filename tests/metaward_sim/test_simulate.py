"""A whole simulation: every file is written, and equal seeds give equal bytes."""

import json
from pathlib import Path

import pytest
import yaml

from metaward.model_artefact import load_model
from metaward_client.privacy.policy import BlockPolicy, read_policy_file
from tiny_run import ROUNDS, TinyRun, everything_in, figures, simulate_tiny, weights


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The same scenario a second time, elsewhere, with another number of processes, for people."""
    return simulate_tiny(tmp_path_factory.mktemp("again") / "run", "--workers", "1")


def test_every_file_of_the_run_directory_is_written(tiny_run: TinyRun) -> None:
    assert tiny_run.code == 0, tiny_run.err
    for name in (
        "config.yaml",
        "rounds.jsonl",
        "model/meta.safetensors",
        "model/model.yaml",
        "baselines/fedavg/meta.safetensors",
        "baselines/fedavg/model.yaml",
        "baselines/pooled/meta.safetensors",
        "privacy.json",
        "report.json",
        "report.html",
    ):
        assert (tiny_run.path / name).stat().st_size > 0, name
    assert any((tiny_run.path / "checkpoints").iterdir())
    assert not list(tiny_run.path.rglob("*.partial"))


def test_the_resolved_settings_say_how_to_get_the_run_again(tiny_run: TinyRun) -> None:
    content = yaml.safe_load((tiny_run.path / "config.yaml").read_text())
    assert content["scenario"]["seed"] == 3
    assert content["scenario"]["rounds"] == ROUNDS
    assert content["scenario"]["model"]["name"] == "conv4"  # a default, written out
    assert content["commit"]
    assert content["versions"]["torch"]


def test_a_scenario_chooses_how_deltas_are_aggregated_and_the_run_says_so(tmp_path: Path) -> None:
    hospitals = {"synthetic": 3, "held_out": 1, "patients": 4}
    ends = {}
    for rule in ("mean", "median"):
        run = simulate_tiny(
            tmp_path / rule,
            aggregation={"name": rule},
            hospitals=hospitals,
            rounds=2,
            baselines={"methods": []},
        )
        assert run.code == 0, run.err
        content = yaml.safe_load((run.path / "config.yaml").read_text())
        assert content["scenario"]["aggregation"] == {"name": rule}
        ends[rule] = weights(run.path)
    assert ends["mean"] != ends["median"]


def test_rounds_are_logged_and_reported_one_by_one(tiny_run: TinyRun) -> None:
    lines = (tiny_run.path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round_index"] for line in lines] == list(range(ROUNDS))
    training = tiny_run.report["training"]
    assert [row["round_index"] for row in training] == list(range(ROUNDS))
    assert all(row["admitted"] == 2 and row["loss"] > 0 for row in training)


def test_json_is_one_object_and_nothing_else(tiny_run: TinyRun) -> None:
    assert json.loads(tiny_run.out) == tiny_run.report
    assert tiny_run.err == ""


def test_held_out_hospitals_are_measured_and_the_others_are_not(tiny_run: TinyRun) -> None:
    report = tiny_run.report
    assert {(site["name"], site["held_out"]) for site in report["sites"]} == {
        ("alder", False),
        ("birch", False),
        ("cedar", True),
    }
    measured = {(row["site"], row["method"], row["shots"]) for row in report["evaluation"]}
    methods = ("meta", "fedavg", "local", "random", "pooled")
    assert measured == {("cedar", method, shots) for method in methods for shots in (1, 5)}
    assert {row["reference"] for row in report["comparison"]} == set(methods[1:])


def test_of_every_hospital_that_was_drawn_the_report_says_so(tiny_run: TinyRun) -> None:
    said = {site["description"] for site in tiny_run.report["sites"]}
    assert said == {"synthetic: a program drew the images"}
    assert "synthetic: a program drew the images" in (tiny_run.path / "report.html").read_text()


def test_only_hospitals_that_took_part_left_a_log(tiny_run: TinyRun) -> None:
    logs = {path.stem for path in (tiny_run.path / "sites").glob("*.jsonl")}
    assert logs == {"alder", "birch"}


def test_not_private_stands_wherever_a_reader_may_look(tiny_run: TinyRun, again: TinyRun) -> None:
    assert "NOT PRIVATE" in again.out
    for name in ("model/model.yaml", "baselines/fedavg/model.yaml", "privacy.json"):
        assert "NOT PRIVATE" in (tiny_run.path / name).read_text(), name
    assert "NOT PRIVATE" in (tiny_run.path / "report.html").read_text()
    assert "NOT PRIVATE" in json.dumps(tiny_run.report["privacy"])
    privacy = json.loads((tiny_run.path / "privacy.json").read_text())
    assert set(privacy) == {"alder", "birch"}


def test_the_output_for_people_names_each_phase_and_the_report(again: TinyRun) -> None:
    assert again.code == 0, again.err
    for words in ("Meta-training", "Baseline: FedAvg", "Baseline: pooled", "Evaluating", "cedar"):
        assert words in again.out
    assert str(again.path / "report.html") in again.out.replace("\n", "")
    assert again.err == ""


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(
    tiny_run: TinyRun, again: TinyRun
) -> None:
    assert set(weights(tiny_run.path)) == {"model", "baselines/fedavg", "baselines/pooled"}
    assert weights(again.path) == weights(tiny_run.path)
    one, other = figures(tiny_run.report), figures(again.report)
    one["settings"].pop("workers")
    assert other["settings"].pop("workers") == 1
    assert other == one


def test_another_seed_gives_other_models_and_other_figures(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    other = simulate_tiny(tmp_path / "run", "--json", "--seed", "4", rounds=2)
    assert other.code == 0, other.err
    assert weights(other.path)["model"] != weights(tiny_run.path)["model"]
    assert other.report["evaluation"] != tiny_run.report["evaluation"]
    assert other.report["sites"] != tiny_run.report["sites"]  # other hospitals too


def test_the_model_that_was_trained_is_not_the_one_it_started_from(tiny_run: TinyRun) -> None:
    artefact = load_model(tiny_run.path / "model")
    assert artefact.card.rounds == ROUNDS
    untrained = load_model(tiny_run.path / "baselines/fedavg").theta
    assert any((artefact.theta[name] != leaf).any() for name, leaf in untrained.items())


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(
    tiny_run: TinyRun,
) -> None:
    before = everything_in(tiny_run.path)
    refused = simulate_tiny(tiny_run.path, "--seed", "9")
    assert refused.code == 2
    assert "another run" in refused.err
    assert "--out" in refused.err
    assert refused.out == ""
    assert everything_in(tiny_run.path) == before


def test_under_block_release_each_method_has_the_blocks_that_suit_its_own_learner(
    tmp_path: Path,
) -> None:
    """FedAvg draws no episodes: it takes 20 patients a block, episodes of 1 + 1 images 10."""
    run = simulate_tiny(
        tmp_path / "run",
        rounds=2,
        baselines={"methods": ["fedavg"]},
        privacy={"mechanism": "block", "target_epsilon": 8, "population": 400},
    )
    assert run.code == 0, run.err
    blocks = {}
    for of_run in (run.path, run.path / "baseline-runs/fedavg"):
        policy = read_policy_file(of_run / "policies/alder.yaml")
        assert isinstance(policy, BlockPolicy)
        blocks[of_run.name] = policy.n_blocks
    assert blocks == {"run": 40, "fedavg": 20}
