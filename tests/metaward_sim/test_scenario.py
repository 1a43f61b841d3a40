"""What a scenario turns into: studies, an evaluation plan, an outer optimiser that suits."""

import re
from pathlib import Path

import pytest
import yaml

from metaward.arrays import to_arrays
from metaward.config import validate_settings
from metaward.errors import ConfigError
from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta.compose import initial_parameters
from metaward.model_artefact import ModelCard, save_model
from metaward.model_settings import ModelSettings
from metaward.privacy_statement import PrivacyStatement
from metaward.study import ADAM_FOR_SHORT, MeanSettings, MultiKrumSettings, SgdSettings, Study
from metaward_sim.privacy_choice import PrivacyChoice
from metaward_sim.scenario import (
    BaselineSettings,
    Scenario,
)
from metaward_sim.simulate_command import read_scenario


def test_no_file_and_no_option_mean_the_defaults() -> None:
    assert read_scenario(None, {}) == Scenario()


def test_a_resolved_scenario_reads_back_as_itself(tmp_path: Path) -> None:
    scenario = Scenario(name="mine", seed=9, outer=SgdSettings(step_size=0.5))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    assert read_scenario(tmp_path / "mine.yaml", {}) == scenario


def test_options_change_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rounds: 3\nhospitals: {patients: 9}\n")
    given = {"rounds": 4, "hospitals.synthetic": 5, "learner": {"name": "reptile"}}
    scenario = read_scenario(tmp_path / "mine.yaml", given)
    assert (scenario.rounds, scenario.hospitals.synthetic, scenario.hospitals.patients) == (4, 5, 9)
    assert scenario.learner == ReptileSettings()


def test_naming_the_files_own_learner_keeps_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("learner: {name: fomaml, inner_lr: 0.3}\n")
    same = read_scenario(tmp_path / "mine.yaml", {"learner": {"name": "fomaml"}})
    assert same.learner == FomamlSettings(inner_lr=0.3)
    other = read_scenario(tmp_path / "mine.yaml", {"learner": {"name": "prototypical"}})
    assert other.learner == PrototypicalSettings()


def test_a_wrong_option_is_blamed_on_the_option_and_a_wrong_file_on_the_file(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_scenario(None, {"hospitals.root": "x", "learner": {"name": "maml3"}})
    assert caught.value.where == "--data, --learner"
    (tmp_path / "mine.yaml").write_text("rounds: many\n")
    with pytest.raises(ConfigError, match="line 1, rounds") as caught:
        read_scenario(tmp_path / "mine.yaml", {"seed": 1})
    assert caught.value.where == str(tmp_path / "mine.yaml")


def test_the_method_and_fedavg_share_seed_body_and_rules_of_a_round() -> None:
    scenario = Scenario(name="mine", seed=5, rounds=7)
    study, fedavg = scenario.study(), scenario.fedavg_study()
    assert (study.seed, study.model, study.round) == (fedavg.seed, fedavg.model, fedavg.round)
    assert (study.name, study.rounds) == ("mine", 7)
    assert fedavg.name == "mine-fedavg"
    assert isinstance(fedavg.learner, FedAvgSettings)
    assert study.digest() != fedavg.digest()


def test_the_aggregation_of_a_scenario_is_that_of_both_studies(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("aggregation: {name: multi-krum, hostile: 2}\n")
    scenario = read_scenario(tmp_path / "mine.yaml", {})
    assert scenario.study().aggregation == MultiKrumSettings(hostile=2)
    assert scenario.fedavg_study().aggregation == MultiKrumSettings(hostile=2)
    assert Scenario().study().aggregation == MeanSettings()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "hospitals: {synthetic: 6}\naggregation: {name: krum, hostile: 2}\n",
            "aggregation krum needs 7 admitted updates in a round, but hospitals.synthetic is 6",
        ),
        (
            "round: {sites_per_round: 4}\naggregation: {name: trimmed-mean}\n",
            "aggregation trimmed-mean needs 5 admitted updates in a round, but "
            "round.sites_per_round is 4",
        ),
        (
            "hospitals: {synthetic: 2}\naggregation: {name: median}\n",
            "aggregation median needs 3",
        ),
        ("aggregation: {name: medain}\n", "did you mean 'median'"),
        (
            "aggregation: {name: median, fraction: 0.1}\n",
            "aggregation.fraction: there is no such key",
        ),
    ],
)
def test_a_rule_that_could_never_work_is_refused_before_anything_is_drawn(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read_scenario(tmp_path / "mine.yaml", {})


def test_the_longest_name_still_names_both_studies() -> None:
    name = "a" * 64
    scenario = Scenario(name=name)
    assert scenario.study().name == name
    assert len(scenario.fedavg_study().name) <= 64


def test_fedadam_is_fedavg_but_for_the_servers_step(tmp_path: Path) -> None:
    baselines = {"fedavg": {"rounds": 7}, "fedadam": {"outer": {"name": "adam", "step_size": 0.1}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "baselines": baselines}))
    scenario = read_scenario(tmp_path / "mine.yaml", {})
    plain, adam = scenario.fedavg_study(), scenario.fedadam_study()
    assert plain.outer == SgdSettings(step_size=1.0)
    assert adam.outer == ADAM_FOR_SHORT.model_copy(update={"step_size": 0.1})
    assert (plain.name, adam.name, adam.rounds) == ("mine-fedavg", "mine-fedadam", 7)
    assert adam.model_copy(update={"name": plain.name, "outer": plain.outer}) == plain
    assert Scenario().fedadam_study().outer == ADAM_FOR_SHORT


def test_an_outer_optimiser_that_is_chosen_is_used() -> None:
    chosen = SgdSettings(step_size=0.25)
    assert Scenario(outer=chosen).study().outer == chosen


def test_a_scenario_that_is_written_down_names_the_outer_step_that_it_left_out() -> None:
    scenario = Scenario(learner=ReptileSettings())
    written = scenario.model_dump(mode="json")
    assert written["outer"] == {"name": "sgd", "step_size": 1.0}
    assert validate_settings(written, Scenario, where="config.yaml") == scenario


def test_the_plan_measures_what_the_scenario_says() -> None:
    plan = Scenario().evaluation.plan(seed=4)
    wanted = Scenario().evaluation
    assert (plan.shots, plan.n_way, plan.n_query, plan.episodes, plan.seed) == (
        wanted.shots,
        wanted.n_way,
        wanted.n_query,
        wanted.episodes,
        4,
    )


def test_a_scenario_that_would_end_with_more_classes_than_slots_is_refused_at_once() -> None:
    given = {"learner": {"name": "mann", "n_way": 3}, "evaluation.n_way": 4}
    with pytest.raises(ConfigError, match=r"evaluation.n_way \(4\) is more than the label slots"):
        read_scenario(None, given)
    assert read_scenario(None, given | {"evaluation.n_way": 3}).evaluation.n_way == 3


def test_a_run_with_a_start_is_compared_with_it_unless_the_file_says_otherwise() -> None:
    start = Path("model")
    assert Scenario(start=start).baselines.methods == (
        "fedavg",
        "fedadam",
        "local",
        "random",
        "start",
    )
    private = Scenario(start=start, privacy=PrivacyChoice(target_epsilon=8.0))
    assert private.baselines.methods == ("noise-only", "local", "random", "start")
    chosen = Scenario(start=start, baselines=BaselineSettings(methods=("random",)))
    assert chosen.baselines.methods == ("random",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("baselines: {methods: [start]}\n", "start is for runs that begin from a `start`"),
        (f"start_sha256: {'a' * 64}\n", "start_sha256 without start"),
    ],
)
def test_what_speaks_of_a_start_needs_one(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_scenario(tmp_path / "mine.yaml", {})


def test_both_studies_of_a_run_begin_from_its_start() -> None:
    scenario = Scenario(start=Path("model"), start_sha256="b" * 64)
    assert scenario.study().start_sha256 == "b" * 64
    assert scenario.fedavg_study().start_sha256 == "b" * 64


def test_a_start_stands_beside_the_file_and_gives_the_network_that_the_file_leaves_out(
    tmp_path: Path,
) -> None:
    model = ModelSettings(filters=8, image_size=16, groups=2)
    study = Study(name="public", model=model)
    card = ModelCard.of_study(study, PrivacyStatement())
    theta = to_arrays(initial_parameters(model, study.learner, 0))
    save_model(tmp_path / "public", card, theta)
    (tmp_path / "mine.yaml").write_text("start: public\nprivacy: {target_epsilon: 8}\n")
    scenario = read_scenario(tmp_path / "mine.yaml", {})
    assert scenario.start == tmp_path / "public"
    assert scenario.model == model
    (tmp_path / "own.yaml").write_text("start: public\nmodel: {filters: 12}\n")
    assert read_scenario(tmp_path / "own.yaml", {}).model == ModelSettings(filters=12)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("evaluation: {shots: []}\n", "evaluation.shots: must have at least 1 values, not 0"),
        ("hospitals: {held_out: []}\n", "hospitals.held_out: nobody is held out"),
        ("hospitals: {held_out: -10}\n", "hospitals.held_out: -10 hospitals to hold out"),
        ("hospitals: {held_out: 1000000000}\n", "hospitals.held_out: 1000000000 hospitals"),
        ("baselines: {methods: [local, random, local]}\n", "baselines.methods: local more than"),
        ("round: {deadline_s: 1.0e+300}\n", "round.deadline_s: must be less than or equal to"),
    ],
)
def test_what_nothing_could_be_measured_with_is_refused_before_anything_is_drawn(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="1 problem") as caught:
        read_scenario(tmp_path / "mine.yaml", {})
    assert problem in str(caught.value)


def test_an_option_fills_a_mapping_that_the_file_leaves_without_a_value(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("privacy:\n")
    scenario = read_scenario(tmp_path / "mine.yaml", {"privacy.target_epsilon": 8.0})
    assert scenario.privacy == PrivacyChoice(target_epsilon=8.0)
