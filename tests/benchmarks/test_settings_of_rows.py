"""What a row of a benchmark says it is, it is trained as."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import bench_medical
import private_training
from metaward.learner_settings import FedAvgSettings, PrototypicalSettings
from metaward.model_artefact import ModelCard, save_model
from metaward.model_settings import ModelSettings
from metaward.privacy_statement import PrivacyStatement
from metaward.study import AdamSettings, SgdSettings, Study
from metaward_server.study_run import initial_theta
from metaward_sim.recommended import recommended_sums
from metaward_sim.scenario import Scenario

MODEL = ModelSettings(filters=8, image_size=16, groups=2)


def test_fedavg_stands_in_the_medical_table_with_a_plain_average_and_with_the_servers_adam() -> (
    None
):
    job = bench_medical.Job("FedAvg", "", (), (), MODEL, rounds=1, episodes=1, seed=0)
    plain, adaptive = job.study(), replace(job, row=bench_medical.FEDADAM).study()
    assert isinstance(plain.outer, SgdSettings)
    assert isinstance(adaptive.outer, AdamSettings)
    assert isinstance(plain.learner, FedAvgSettings)
    assert plain.learner == adaptive.learner


def test_private_training_begins_from_the_model_that_is_named(tmp_path: Path) -> None:
    study = Study(model=MODEL, learner=PrototypicalSettings())
    untrained = initial_theta(study)
    trained = {name: leaf + 1 for name, leaf in untrained.items()}
    save_model(tmp_path / "m", ModelCard.of_study(study, PrivacyStatement()), trained)
    job = private_training.Job(
        row=private_training.rows()[0], epsilon=8.0, noise_only=False, sites=(), held_out=(),
        image=(16, 1), rounds=1, episodes=1, seed=0,
    )  # fmt: skip
    begun = replace(job, start=tmp_path / "m").first_theta(study)
    for name, leaf in untrained.items():
        np.testing.assert_array_equal(job.first_theta(study)[name], leaf)
        np.testing.assert_array_equal(begun[name], trained[name])


def test_a_private_row_asks_for_its_own_number_of_sums_which_is_a_simulation_s() -> None:
    for row in private_training.rows():
        if row.mechanism != "dp-sgd":
            continue
        job = private_training.Job(
            row=row, epsilon=8.0, noise_only=False, sites=(), held_out=(),
            image=(16, 1), rounds=1, episodes=1, seed=0,
        )  # fmt: skip
        choice = private_training.choice_of(job)
        assert choice is not None
        assert choice.steps_per_round == recommended_sums(row.learner)


def test_rows_of_block_release_have_a_simulation_s_blocks_and_outer_step() -> None:
    for row in private_training.rows():
        if row.mechanism != "block":
            continue
        job = private_training.Job(
            row=row, epsilon=8.0, noise_only=False, sites=(), held_out=(),
            image=(16, 1), rounds=1, episodes=1, seed=0,
        )  # fmt: skip
        choice = private_training.choice_of(job)
        assert choice is not None
        assert choice.blocks is None  # what a simulation takes
        scenario = Scenario.model_validate(
            {"learner": row.learner.model_dump(), "privacy": choice.model_dump()}
        )
        assert job.outer == scenario.study().outer
