"""Each learner's delta of a block: of the block's patients alone, all leaves, clipped as one."""

import numpy as np
import pytest
import torch

from block_cases import BLOCKS, KEY, SEED, in_block
from metaward.arrays import Tensors
from metaward.learner_settings import (
    AnilSettings,
    FedAvgSettings,
    FomamlSettings,
    HallucinationSettings,
    LearnerSettings,
    MamlSettings,
    MannSettings,
    MatchingSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
    SiameseSettings,
)
from metaward.meta.compose import build_learner, initial_parameters
from metaward_client.privacy.block_release import block_delta, block_release
from metaward_client.privacy.noised_sum import NoisedSums
from metaward_client.privacy.terms import Terms
from private_site import BODY, STUDY, KnownSource, task_of

LEARNERS: list[LearnerSettings] = [
    PrototypicalSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    PrototypicalSettings(
        distance="cosine", loss="margin", n_way=2, n_shot=1, n_query=1, episodes=1
    ),
    MatchingSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    MatchingSettings(full_context=True, n_way=2, n_shot=1, n_query=1, episodes=1),
    RelationSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    SiameseSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    SiameseSettings(loss="contrastive", margin=3.0, n_way=2, n_shot=1, n_query=1, episodes=1),
    FomamlSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    MamlSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    AnilSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    ReptileSettings(n_way=2, n_shot=1, episodes=1, inner_steps=1),
    FedAvgSettings(local_steps=1),
    MannSettings(
        n_way=2,
        n_shot=1,
        n_query=1,
        episodes=1,
        hidden=4,
        memory_rows=3,
        read_heads=1,
        memory_width=4,
    ),
    HallucinationSettings(n_way=2, n_shot=1, n_query=1, episodes=1, hidden=4),
]


def theta_of(learner: LearnerSettings) -> Tensors:
    """Return theta before round 0, with the learner's own leaves."""
    return initial_parameters(STUDY.model, learner, STUDY.seed)


def block_of_six(extra: dict[str, list[int]]) -> np.ndarray:
    """Numbers of the six patients p0..p5 in a task with others."""
    return np.arange(len(extra), len(extra) + 6)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda s: s.name)
def test_a_patient_elsewhere_changes_no_bit_of_a_blocks_delta(learner: LearnerSettings) -> None:
    six = {f"p{i}": [1 + i % 2, 1 + i % 2] for i in range(6)}
    names = ("a rare one", "b", "c")

    def delta(extra: dict[str, list[int]]) -> dict[str, np.ndarray] | None:
        return block_delta(
            BODY, theta_of(learner), task_of(extra | six, names), build_learner(learner),
            block_of_six(extra), np.random.default_rng(3),
        )  # fmt: skip

    alone, crowded = delta({}), delta({"x": [0, 0, 1, 2], "y": [0]})
    assert alone is not None
    assert crowded is not None
    assert sum(float(np.abs(leaf).sum()) for leaf in alone.values()) > 0
    for name, leaf in alone.items():
        assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(crowded[name], leaf)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda s: s.name)
@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1]], ids=str)
def test_every_learner_bears_a_block_that_is_too_small(
    learner: LearnerSettings, labels: list[int]
) -> None:
    task = task_of({"p": labels})
    given = block_delta(
        BODY, theta_of(learner), task, build_learner(learner), np.array([0]),
        np.random.default_rng(0),
    )  # fmt: skip
    assert given is None or given.keys() == theta_of(learner).keys()


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda s: s.name)
def test_a_release_has_all_leaves_of_theta_with_the_learners_own(learner: LearnerSettings) -> None:
    """Clipped as one vector: the sum of two blocks is at most twice the norm long."""
    generator = torch.Generator().manual_seed(
        0
    )  # away from a start of zeros, which stops gradients
    theta = {
        name: leaf + 0.05 * torch.randn(leaf.shape, generator=generator)
        for name, leaf in theta_of(learner).items()
    }
    task = task_of({name: [0, 1] for block in (0, 1) for name in in_block(block, 4)})
    sums = NoisedSums(Terms("block", 1.0, 0.5, 1, 1e-3, divisor=0.5 * BLOCKS), KnownSource(), 1e-3)
    given = block_release(
        BODY, theta, task, build_learner(learner), sums, blocks=BLOCKS, block_key=KEY, seed=SEED
    )
    assert {name: leaf.shape for name, leaf in given.items()} == {
        name: tuple(leaf.shape) for name, leaf in theta.items()
    }
    assert all(leaf.any() for leaf in given.values())
    length = np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in given.values()))
    assert length <= 2 * 1e-3 / (0.5 * BLOCKS) * (1 + 1e-6)
