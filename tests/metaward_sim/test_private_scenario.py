"""What a scenario of a private run takes, keeps and refuses."""

from pathlib import Path

import pytest
import yaml

from metaward.errors import ConfigError
from metaward.learner_settings import (
    FomamlSettings,
    MamlSettings,
    MannSettings,
    PrototypicalSettings,
)
from metaward.study import ADAM_FOR_SHORT
from metaward_sim.recommended import recommended_outer
from metaward_sim.simulate_command import read_scenario


@pytest.mark.parametrize(
    ("learner", "given", "sums"),
    [("prototypical", {}, 3), ("fomaml", {}, 1), ("reptile", {}, 2), ("fedavg", {}, 2),
     ("fomaml", {"privacy.steps_per_round": 3}, 3),
     ("prototypical", {"privacy.steps_per_round": 2}, 2)],
)  # fmt: skip
def test_each_learner_has_the_noised_sums_that_suit_it_unless_a_file_says_otherwise(
    learner: str, given: dict[str, object], sums: int
) -> None:
    asked = {"privacy.target_epsilon": 8.0, "learner": {"name": learner}}
    scenario = read_scenario(None, asked | given)
    assert scenario.privacy is not None
    assert scenario.privacy.sums_for(scenario.learner) == sums


def test_a_private_scenario_takes_what_suits_privacy_where_the_file_leaves_it_open(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.yaml").write_text("privacy: {target_epsilon: 8.0}\nmodel: {groups: 2}\n")
    scenario = read_scenario(tmp_path / "mine.yaml", {})
    assert isinstance(scenario.learner, PrototypicalSettings)
    assert (scenario.model.filters, scenario.model.groups) == (16, 2)
    assert "noise-only" in scenario.baselines.methods
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    assert read_scenario(tmp_path / "resolved.yaml", {}) == scenario


def test_a_private_scenario_keeps_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "privacy: {target_epsilon: 8.0}\nlearner: {name: fomaml}\nmodel: {filters: 32}\n"
        "baselines: {methods: [random]}\n"
    )
    scenario = read_scenario(tmp_path / "mine.yaml", {})
    assert scenario.learner == FomamlSettings()
    assert scenario.model.filters == 32
    assert scenario.baselines.methods == ("random",)


def test_block_release_is_for_learners_without_a_noised_form_too() -> None:
    given = {"privacy.target_epsilon": 8.0, "privacy.mechanism": "block"}
    scenario = read_scenario(None, given | {"learner": {"name": "maml"}})
    assert scenario.learner == MamlSettings()


def test_a_mechanism_alone_is_told_that_it_needs_an_epsilon() -> None:
    with pytest.raises(ConfigError, match="--mechanism for a run that is not private") as caught:
        read_scenario(None, {"privacy.mechanism": "block"})
    assert caught.value.next_step == "Add --epsilon 8, or leave --mechanism out."


def test_epsilon_on_the_command_line_makes_a_run_private() -> None:
    scenario = read_scenario(None, {"privacy.target_epsilon": 3.0})
    assert scenario.privacy is not None
    assert scenario.privacy.target_epsilon == 3.0
    assert isinstance(scenario.learner, PrototypicalSettings)
    assert scenario.study().outer == ADAM_FOR_SHORT
    block = read_scenario(None, {"privacy.target_epsilon": 3.0, "privacy.mechanism": "block"})
    assert isinstance(block.learner, PrototypicalSettings)
    assert block.study().outer == ADAM_FOR_SHORT != recommended_outer(block.learner)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"privacy.target_epsilon": 8.0, "privacy.steps_per_round": 1},
            "prototypical with 1 noised sum in a round; expected at least 2",
        ),
        (
            {"privacy.target_epsilon": 8.0, "learner": {"name": "maml"}},
            "privacy.mechanism: learner maml with mechanism dp-sgd; expected .* Take mechanism",
        ),
        (
            {
                "privacy.target_epsilon": 8.0,
                "learner": {"name": "prototypical", "distance": "cosine"},
            },
            "prototypical with distance cosine, loss cross-entropy and mechanism dp-sgd",
        ),
        (
            {"privacy.target_epsilon": 8.0, "learner": {"name": "relation"}},
            "learner relation with mechanism dp-sgd",
        ),
        (
            {"privacy.target_epsilon": 8.0, "learner": {"name": "mann"}},
            "learner mann with mechanism dp-sgd; expected a learner that works from noised sums",
        ),
        ({"baselines": {"methods": ["noise-only"]}}, "control for runs with `privacy`"),
        ({"privacy.target_epsilon": 8.0, "privacy.blocks": 100_001}, "privacy.blocks.*100000"),
        (
            {"privacy.target_epsilon": 8.0, "privacy.steps_per_round": 10_001},
            "privacy.steps_per_round.*10000",
        ),
        (
            {"privacy.target_epsilon": 8.0, "privacy.blocks": 40},
            "privacy: blocks is for mechanism block, not dp-sgd",
        ),
        (
            {
                "privacy.target_epsilon": 8.0,
                "privacy.mechanism": "block",
                "privacy.images_per_patient": 9,
            },
            "privacy: images_per_patient is for mechanism dp-sgd, not block",
        ),
        (
            {"privacy.target_epsilon": 8.0, "device": "cuda"},
            "dp-sgd with device cuda: its proof holds on a CPU alone",
        ),
    ],
)
def test_what_privacy_cannot_have_is_refused_in_words(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_scenario(None, given)


def test_hospitals_train_on_an_accelerator_with_block_release_and_without_ray() -> None:
    block = {"privacy.target_epsilon": 8.0, "privacy.mechanism": "block", "device": "cuda"}
    assert read_scenario(None, block).device == "cuda"
    with pytest.raises(ConfigError, match="grid ray computes on CPUs"):
        read_scenario(None, {"device": "cuda:1", "grid": "ray"})


def test_a_learner_without_a_noised_form_is_fine_under_block_release() -> None:
    given = {
        "privacy.target_epsilon": 8.0,
        "privacy.mechanism": "block",
        "learner": {"name": "mann"},
    }
    assert read_scenario(None, given).learner == MannSettings()
