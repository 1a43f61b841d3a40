"""One patient cannot move what is computed further than the noise is made for."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import mutants
import numpy as np
import pytest
import torch
from mutants import BODY, NORM, SIDE

from metaward.learner_settings import LearnerSettings
from metaward.tasks import Task
from metaward_client.privacy.patient_gradients import refuse_shared_statistics
from metaward_client.privacy.terms import Relation
from metaward_client.privacy_audit.findings import Verdict
from metaward_client.privacy_audit.released_sums import (
    ALL_LEARNERS,
    LEARNERS_OF_DP_SGD,
    TIGHT_NORM,
    block_sum,
    dp_sgd_sums,
)
from metaward_client.privacy_audit.sensitivity import ROUNDING, sensitivity_finding, worst_ratio
from metaward_client.privacy_audit.shared_statistics import let_through, shared_statistics_finding
from metaward_client.privacy_audit.worlds import (
    Worlds,
    neighbouring_worlds,
    small_part,
    synthetic_task,
)

RNG = np.random.default_rng(3)
TASK = synthetic_task(RNG, n_patients=13, size=SIDE)
WORLDS = neighbouring_worlds(TASK, RNG)
ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE

pytestmark = pytest.mark.usefixtures("one_thread")


def ratio(vector_sum: Callable[[Task], dict[str, np.ndarray]]) -> float:
    return worst_ratio(vector_sum, WORLDS, max_grad_norm=NORM, relation=ADD)


@pytest.mark.parametrize("learner", LEARNERS_OF_DP_SGD, ids=lambda learner: learner.name)
def test_dp_sgd_keeps_its_claim_at_every_step_of_every_learner(learner: LearnerSettings) -> None:
    sums = dp_sgd_sums(BODY, WORLDS.present["as found"], learner)
    worst = [worst_ratio(s, WORLDS, max_grad_norm=TIGHT_NORM, relation=ADD) for s in sums]
    assert len(worst) == 3
    assert max(worst) <= 1 + ROUNDING
    # The worst patient really comes near the bound: the audit is not blind. A group norm leaves
    # features shorter than their bound, so a class sum stays further below.
    assert min(worst) > (0.6 if learner.name == "prototypical" else 0.99)


@pytest.mark.parametrize("learner", ALL_LEARNERS, ids=lambda learner: learner.name)
def test_block_release_keeps_its_claim_for_every_learner(learner: LearnerSettings) -> None:
    worst = worst_ratio(
        block_sum(BODY, learner), WORLDS, max_grad_norm=TIGHT_NORM, relation=REPLACE
    )
    assert 0.1 < worst <= 1 + ROUNDING


def test_the_audit_asks_every_learner_of_the_library() -> None:
    [kinds, _] = get_args(LearnerSettings)
    assert {type(learner) for learner in ALL_LEARNERS} == set(get_args(kinds))


def test_a_sound_sum_by_hand_passes() -> None:
    assert 0.99 < ratio(mutants.sound_sum) <= 1 + ROUNDING


@pytest.mark.parametrize(
    ("mutant", "at_least"),
    [
        (mutants.record_level_clip, 3.0),
        (mutants.only_the_query_clipped, 1.05),
        (mutants.head_from_support, 1.05),
        (mutants.actual_batch_size, 1.1),
        (mutants.averaged_gradient_clipped, 1.05),
        (mutants.class_weights_after_clipping, 1.05),
        (mutants.class_weights_of_exact_counts, 1.05),
        (mutants.rare_labels_weigh_more_than_one, 1.2),
        (mutants.class_sums_of_images, 10.0),
        (mutants.no_clip, 10.0),
        (mutants.one_stream_for_all, 1.05),
        (mutants.batch_norm_sum, 1.05),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_broken_sum_is_caught(
    mutant: Callable[[Task], dict[str, np.ndarray]], at_least: float
) -> None:
    found = ratio(mutant)
    print(f"{mutant.__name__}: {found:.2f}")  # noqa: T201 (a figure for the report; pytest -rP)
    assert found >= at_least
    assert sensitivity_finding("mutant", {"sum": found}, ADD).verdict is Verdict.FAIL


@pytest.mark.parametrize(("relation", "expected"), [(ADD, 2.0), (REPLACE, 1.75)])
def test_adding_is_held_against_the_norm_and_replacing_any_two_against_twice_it(
    relation: Relation, expected: float
) -> None:
    """Two vectors of 1.5 C and 2 C that point apart are 3.5 C from one another."""
    absent, one, other = (replace(WORLDS.absent) for _ in range(3))
    moves = {id(absent): 0.0, id(one): 1.5 * NORM, id(other): -2.0 * NORM}

    def vector_sum(world: Task) -> dict[str, np.ndarray]:
        return {"sum": np.array([1.0 + moves[id(world)], 1.0])}

    worlds = Worlds(absent, {"one": one, "other": other})
    found = worst_ratio(vector_sum, worlds, max_grad_norm=NORM, relation=relation)
    assert found == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_patient_without_numbers_who_poisons_the_sum_is_caught() -> None:
    assert ratio(mutants.poisoned_by_what_is_no_number) == math.inf


def test_networks_that_mix_patients_are_refused_and_an_open_gate_is_caught() -> None:
    assert let_through(refuse_shared_statistics) == []

    def affine_only(net: torch.nn.Module) -> None:
        """Look at trainable parameters alone, as a validator that passes a frozen BatchNorm."""
        if any(isinstance(m, torch.nn.BatchNorm2d) and m.affine for m in net.modules()):
            refuse_shared_statistics(net)

    through = let_through(affine_only)
    assert "batch norm, frozen affine" in through
    assert shared_statistics_finding(through).verdict is Verdict.FAIL


def test_the_two_worlds_differ_in_one_patient_only() -> None:
    n = len(WORLDS.absent.labels)
    for task in WORLDS.present.values():
        assert task.n_patients == WORLDS.absent.n_patients + 1
        assert np.array_equal(task.images[:n], WORLDS.absent.images)
        assert np.array_equal(task.labels[:n], WORLDS.absent.labels)
        assert task.patient_tokens[:-1] == WORLDS.absent.patient_tokens


def test_a_part_of_the_data_holds_whole_patients_under_new_names() -> None:
    part = small_part(TASK, np.random.default_rng(0), 5)
    assert part.n_patients == 5
    assert sorted(np.bincount(part.patients)) == [4] * 5
    assert not set(part.patient_tokens) & set(TASK.patient_tokens)


def test_sums_that_nobody_moves_show_nothing() -> None:
    assert sensitivity_finding("too few", {"sum": 0.0}, ADD).verdict is Verdict.NOT_SHOWN
    assert sensitivity_finding("enough", {"sum": 1.0}, ADD).verdict is Verdict.PASS


def test_one_step_that_a_patient_moves_too_far_fails_the_check_beside_sound_ones() -> None:
    ratios = {"step 1": 0.1, "step 2": 1.01, "step 3": 0.1}
    assert sensitivity_finding("x", ratios, ADD).verdict is Verdict.FAIL
