"""What a scenario takes where it leaves it open: a server's step and blocks that suit a learner."""

from pathlib import Path

import pytest

from metaward.learner_settings import (
    FedAvgSettings,
    FomamlSettings,
    LearnerSettings,
    MamlSettings,
    MatchingSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
    SiameseSettings,
)
from metaward.models.build import build_body
from metaward.study import ADAM_FOR_SHORT, AdamSettings, SgdSettings
from metaward_client.privacy.policy import MOST_BLOCKS
from metaward_sim.recommended import recommended_blocks, recommended_outer
from metaward_sim.scenario import Scenario
from metaward_sim.simulate_command import read_scenario


@pytest.mark.parametrize(
    ("learner", "outer"),
    [
        (PrototypicalSettings(), AdamSettings(step_size=5.0e-3)),
        (MatchingSettings(), AdamSettings(step_size=5.0e-3)),
        (RelationSettings(), AdamSettings(step_size=1.0e-3, tau=1.0e-4)),
        (SiameseSettings(), AdamSettings(step_size=5.0e-3)),
        (FomamlSettings(), AdamSettings(step_size=5.0e-3)),
        (MamlSettings(), AdamSettings(step_size=5.0e-3)),
        (ReptileSettings(), SgdSettings(step_size=1.0)),
        (FedAvgSettings(), SgdSettings(step_size=1.0)),
    ],
)
def test_gradients_go_through_adam_and_differences_as_they_are(
    learner: LearnerSettings, outer: AdamSettings | SgdSettings
) -> None:
    assert recommended_outer(learner) == outer
    assert Scenario(learner=learner).study().outer == outer


def test_clipped_deltas_of_every_learner_are_for_adam_to_scale() -> None:
    for learner in (PrototypicalSettings(), FomamlSettings(), ReptileSettings(), FedAvgSettings()):
        assert recommended_outer(learner, clipped=True) == ADAM_FOR_SHORT


def test_a_relation_network_takes_small_steps_also_where_deltas_are_clipped() -> None:
    """With steps of 0.01 its comparing part falls silent, and it stays at chance."""
    outer = recommended_outer(RelationSettings(), clipped=True)
    assert outer == ADAM_FOR_SHORT.model_copy(update={"step_size": 0.001})
    private = {"privacy.target_epsilon": 8.0, "privacy.mechanism": "block"}
    assert read_scenario(None, private | {"learner": {"name": "relation"}}).study().outer == outer


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("{image_size: 16}", 4),
        ("{image_size: 28}", 7),
        ("{image_size: 32, downsample: pool}", 8),
        ("{image_size: 50}", 7),  # three strides round up,
        ("{image_size: 50, downsample: pool}", 12),  # and three pools would leave 6
        ("{image_size: 56, downsample: pool}", 7),
        ("{image_size: 64}", 8),
        ("{image_size: 128}", 8),
        ("{image_size: 224}", 14),
        ("{image_size: 32, downsampled_blocks: 4}", 2),  # as the scenario has it
        ("{name: resnet, image_size: 32}", 4),
    ],
)
def test_a_relation_network_has_maps_that_leave_something_to_compare(
    tmp_path: Path, model: str, side: int
) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(f"learner: {{name: relation}}\nmodel: {model}\n")
    assert build_body(read_scenario(file, {}).study().model, 0).map_side == side


def test_other_learners_halve_their_maps_four_times() -> None:
    for learner in (PrototypicalSettings(), MamlSettings(), SiameseSettings()):
        assert Scenario(learner=learner).model.downsampled_blocks == 4


@pytest.mark.parametrize(
    ("learner", "blocks"),
    [
        (PrototypicalSettings(n_shot=5, n_query=5), 40),
        (PrototypicalSettings(n_shot=5, n_query=3), 50),
        (FomamlSettings(n_shot=1, n_query=1), 200),
        (ReptileSettings(n_shot=10), 40),
        (ReptileSettings(n_shot=2), 200),
        (FedAvgSettings(), 100),
    ],
)
def test_a_block_has_five_patients_for_each_image_that_an_episode_has_of_a_class(
    learner: LearnerSettings, blocks: int
) -> None:
    assert recommended_blocks(learner, 2000) == blocks


def test_there_are_two_blocks_at_least() -> None:
    assert recommended_blocks(PrototypicalSettings(), 20) == 2


def test_blocks_left_out_are_never_more_than_a_policy_may_have() -> None:
    assert recommended_blocks(PrototypicalSettings(n_shot=1, n_query=1), 5_000_000) == MOST_BLOCKS
