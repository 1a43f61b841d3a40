"""Private hospitals in a simulation: their policies, their ledgers, and the control."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from metaward.arrays import Arrays
from metaward.errors import ConfigError
from metaward.learner_settings import FedAvgSettings, PrototypicalSettings, ReptileSettings
from metaward.model_settings import ModelSettings
from metaward.privacy_statement import PrivacyStatement
from metaward.progress import RoundEvent
from metaward.study import SgdSettings, Study
from metaward.tasks import Task
from metaward_client.privacy.accountant import epsilon
from metaward_client.privacy.ledger import read_ledger
from metaward_client.privacy.policy import (
    BlockPolicy,
    DpSgdPolicy,
    NoPrivacy,
    ProtectedSettings,
    read_policy_file,
)
from metaward_client.privacy.terms import Relation
from metaward_server.study_run import initial_theta
from metaward_sim.demo_data import write_demo
from metaward_sim.federation import run_federation
from metaward_sim.privacy_choice import PrivacyChoice
from metaward_sim.privacy_of_run import (
    policies_of,
    round_up,
    set_up,
    statements,
    weakest,
)

STUDY = Study(
    seed=3,
    rounds=2,
    model=ModelSettings(filters=4, groups=2, image_size=32),
    learner=ReptileSettings(inner_lr=0.1),
    outer=SgdSettings(step_size=1.0),
)
DP_SGD = PrivacyChoice(target_epsilon=8.0, sample_rate=0.5, steps_per_round=2, noise_multiplier=3.0)
BLOCK = PrivacyChoice(
    mechanism="block", target_epsilon=20.0, sample_rate=0.5, blocks=2, noise_multiplier=3.0
)


def task(site: str, n_patients: int) -> Task:
    return Task(
        site=site,
        images=np.zeros((n_patients, 1, 16, 16), dtype=np.float16),
        labels=np.arange(n_patients) % 2,
        patients=np.arange(n_patients),
        label_names=(f"{site} a", f"{site} b"),
    )


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("hospitals")
    return [summary.path for summary in write_demo(folder, hospitals=2, patients=4)]


@pytest.fixture(scope="module")
def tasks(sites: Sequence[Path]) -> dict[str, Task]:
    from metaward_client.site import load_site

    return {
        load_site(site).name: load_site(site).load_task(image_size=32, channels=1) for site in sites
    }


def protected(path: Path) -> ProtectedSettings:
    policy = read_policy_file(path)
    assert not isinstance(policy, NoPrivacy)
    return policy


@pytest.mark.parametrize(
    ("patients", "published"),
    [(1, 10), (10, 10), (11, 15), (16, 20), (199, 200), (200, 200), (1501, 2000), (1834, 2000),
     (11_081, 15_000), (15_000, 15_000)],
)  # fmt: skip
def test_a_population_is_published_as_a_round_number_and_never_below(
    patients: int, published: int
) -> None:
    assert round_up(patients) == published


def test_without_a_choice_every_policy_says_not_private() -> None:
    policies = policies_of(None, {"north": task("north", 30)}, learner=STUDY.learner, rounds=3)
    assert policies == {"north": NoPrivacy()}


def test_hospitals_share_budget_and_noise_and_keep_their_own_population_and_labels() -> None:
    tasks = {"north": task("north", 30), "south": task("south", 1834)}
    policies = policies_of(replace_noise(DP_SGD, None), tasks, learner=STUDY.learner, rounds=3)
    north, south = policies["north"], policies["south"]
    assert isinstance(north, DpSgdPolicy)
    assert isinstance(south, DpSgdPolicy)
    assert (north.population, south.population) == (30, 2000)
    assert north.target_delta == south.target_delta == pytest.approx(1 / 20_000)
    assert north.labels == ("north a", "north b")
    assert north.noise_multiplier == south.noise_multiplier
    whole = {next(iter(north.terms().per_round())): 3 * DP_SGD.sums_for(STUDY.learner)}
    spent = epsilon(whole, target_delta=north.target_delta, relation=Relation.ADD_OR_REMOVE_ONE)
    assert 7.5 < spent <= 8.0


def test_a_baseline_of_another_learner_has_the_sums_and_the_noise_that_suit_it() -> None:
    """A private FedAvg beside prototypical networks is not charged for their third sum."""
    left_out = PrivacyChoice(target_epsilon=8.0)
    policies = [
        policies_of(left_out, {"north": task("north", 200)}, learner=learner, rounds=3)["north"]
        for learner in (PrototypicalSettings(), FedAvgSettings())
    ]
    prototypical, fedavg = (p for p in policies if isinstance(p, DpSgdPolicy))
    assert (prototypical.steps_per_round, fedavg.steps_per_round) == (3, 2)
    assert fedavg.noise_multiplier < prototypical.noise_multiplier


@pytest.mark.parametrize(("mechanism", "usual"), [("dp-sgd", 3.0), ("block", 1.0)])
def test_a_clip_norm_that_is_left_out_is_that_of_a_policy_and_another_one_is_taken(
    mechanism: Literal["dp-sgd", "block"], usual: float
) -> None:
    left_out = PrivacyChoice(mechanism=mechanism, target_epsilon=8.0, noise_multiplier=3.0)
    for choice, norm in (
        (left_out, usual),
        (left_out.model_copy(update={"max_grad_norm": 0.25}), 0.25),
    ):
        policies = policies_of(
            choice, {"north": task("north", 30)}, learner=STUDY.learner, rounds=3
        )
        assert isinstance(policies["north"], DpSgdPolicy | BlockPolicy)
        assert policies["north"].max_grad_norm == norm


def replace_noise(choice: PrivacyChoice, noise: float | None) -> PrivacyChoice:
    return choice.model_copy(update={"noise_multiplier": noise})


def test_block_release_divides_by_expected_blocks_and_is_accounted_under_replace_one() -> None:
    policy = policies_of(BLOCK, {"north": task("north", 30)}, learner=STUDY.learner, rounds=3)[
        "north"
    ]
    assert isinstance(policy, BlockPolicy)
    assert policy.terms().divisor == 1.0
    assert policy.terms().relation is Relation.REPLACE_ONE


def test_blocks_left_out_are_as_many_as_have_patients_for_an_episode() -> None:
    """An episode of 1 + 1 images of a class: 10 patients a block; of 5 + 5: 50; none: 20."""
    left_out = PrivacyChoice(mechanism="block", target_epsilon=20.0, noise_multiplier=3.0)
    small = PrototypicalSettings(n_shot=1, n_query=1)
    for learner, blocks in ((small, 200), (PrototypicalSettings(), 40), (FedAvgSettings(), 100)):
        tasks = {"north": task("north", 1834), "south": task("south", 16)}
        policies = policies_of(left_out, tasks, learner=learner, rounds=3)
        north, south = policies["north"], policies["south"]
        assert isinstance(north, BlockPolicy)
        assert isinstance(south, BlockPolicy)
        assert (north.population, north.blocks) == (2000, blocks)
        assert (south.population, south.blocks) == (20, 2)
        given = left_out.model_copy(update={"blocks": 7})
        own = policies_of(given, tasks, learner=learner, rounds=3)["north"]
        assert isinstance(own, BlockPolicy)
        assert own.blocks == 7


@pytest.mark.parametrize("choice", [BLOCK, DP_SGD])
def test_a_delta_too_large_for_a_hospitals_patients_is_refused_with_its_name(
    choice: PrivacyChoice,
) -> None:
    large = choice.model_copy(update={"target_delta": 0.01, "noise_multiplier": 3.0})
    with pytest.raises(ConfigError, match=r"target_delta \(0.01\) must be at most.*0.005") as said:
        policies_of(large, {"north": task("north", 16)}, learner=STUDY.learner, rounds=3)
    assert "hospital north" in str(said.value)


def test_setting_up_twice_keeps_the_ledger_and_what_was_spent(tmp_path: Path) -> None:
    policies = policies_of(DP_SGD, {"north": task("north", 30)}, learner=STUDY.learner, rounds=3)
    first = set_up(tmp_path, policies)
    ledger = protected(first["north"]).ledger
    before = {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()}
    assert set_up(tmp_path, policies) == first
    assert {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_between_ledger_and_policy_is_set_up_with_that_ledger(
    tmp_path: Path,
) -> None:
    policies = policies_of(DP_SGD, {"north": task("north", 30)}, learner=STUDY.learner, rounds=3)
    first = set_up(tmp_path, policies)
    ledger, policy = protected(first["north"]).ledger, first["north"].read_bytes()
    before = {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()}
    first["north"].unlink()
    assert set_up(tmp_path, policies) == first
    assert first["north"].read_bytes() == policy
    assert {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()} == before


def test_the_statement_of_a_model_is_that_of_the_hospital_that_lost_most() -> None:
    little, much = (
        PrivacyStatement(mechanism="patient DP-SGD", unit="patient", epsilon=value)
        for value in (1.0, 2.0)
    )
    assert weakest([little, much]) is much
    assert not weakest([little, PrivacyStatement(), much]).is_private


def federate(
    study: Study, sites: Sequence[Path], run: Path, files: dict[str, Path], **more: bool
) -> tuple[Arrays, list[RoundEvent]]:
    events: list[RoundEvent] = []
    theta = run_federation(
        study, sites, run, policies=files, workers=1, on_round=events.append, **more
    )
    return theta, events


@pytest.mark.parametrize(
    ("choice", "learner"),
    [(DP_SGD, ReptileSettings(inner_lr=0.1)), (BLOCK, PrototypicalSettings(n_shot=1, n_query=1))],
    ids=["dp-sgd", "block"],
)
def test_a_private_study_charges_each_ledger_for_what_was_sent_and_no_more(
    choice: PrivacyChoice,
    learner: ReptileSettings | PrototypicalSettings,
    sites: Sequence[Path],
    tasks: dict[str, Task],
    tmp_path: Path,
) -> None:
    study = STUDY.model_copy(update={"learner": learner})
    files = set_up(tmp_path, policies_of(choice, tasks, learner=learner, rounds=study.rounds))
    theta, events = federate(study, sites, tmp_path, files)
    assert [event.admitted for event in events] == [2, 2]
    assert any((theta[name] != leaf).any() for name, leaf in initial_theta(study).items())
    for name, path in files.items():
        policy = protected(path)
        state = read_ledger(policy.ledger, policy.witness)
        steps = study.rounds * policy.terms().steps
        assert list(state.spent.values()) == [steps]
        entries = [
            json.loads(line) for line in (tmp_path / f"sites/{name}.jsonl").read_text().splitlines()
        ]
        assert [entry["outcome"] for entry in entries] == ["sent", "sent"]
        assert {entry["mechanism"] for entry in entries} == {policy.label}
    said = statements(files)
    for statement in said.values():
        assert statement.is_private
        assert 0 < (statement.epsilon or 0) <= choice.target_epsilon
        assert statement.unit == "patient"


def test_the_control_has_the_noise_and_the_cost_but_no_patient(
    sites: Sequence[Path], tasks: dict[str, Task], tmp_path: Path
) -> None:
    files = set_up(tmp_path, policies_of(DP_SGD, tasks, learner=STUDY.learner, rounds=STUDY.rounds))
    theta, events = federate(STUDY, sites, tmp_path, files, noise_only=True)
    assert [event.admitted for event in events] == [2, 2]
    assert any((theta[name] != leaf).any() for name, leaf in initial_theta(STUDY).items())
    for path in files.values():
        policy = protected(path)
        assert sum(read_ledger(policy.ledger, policy.witness).spent.values()) == 4
    logs = [path.read_text() for path in (tmp_path / "sites").glob("*.jsonl")]
    assert all(json.loads(line)["loss"] is None for log in logs for line in log.splitlines())


def test_a_hospital_whose_budget_is_used_up_is_left_out_and_the_study_goes_on(
    sites: Sequence[Path], tasks: dict[str, Task], tmp_path: Path
) -> None:
    policies = policies_of(DP_SGD, tasks, learner=STUDY.learner, rounds=STUDY.rounds)
    poor, _ = policies
    policy = policies[poor]
    assert isinstance(policy, DpSgdPolicy)
    one_round = epsilon(
        policy.terms().per_round(),
        target_delta=policy.target_delta,
        relation=Relation.ADD_OR_REMOVE_ONE,
    )
    policies[poor] = policy.model_copy(update={"target_epsilon": 1.01 * one_round})
    files = set_up(tmp_path, policies)
    _, events = federate(STUDY, sites, tmp_path, files)
    assert [event.admitted for event in events] == [2, 1]
    assert events[1].refused == {"site-budget": 1}
    spent = statements(files)[poor].epsilon
    assert spent is not None
    assert spent <= 1.01 * one_round


def test_a_study_begun_again_is_answered_with_the_same_bytes_and_costs_nothing(
    sites: Sequence[Path], tasks: dict[str, Task], tmp_path: Path
) -> None:
    files = set_up(tmp_path, policies_of(DP_SGD, tasks, learner=STUDY.learner, rounds=STUDY.rounds))
    first, _ = federate(STUDY, sites, tmp_path, files)
    before = statements(files)
    again, _ = federate(STUDY, sites, tmp_path / "again", files)
    assert {name: leaf.tobytes() for name, leaf in again.items()} == {
        name: leaf.tobytes() for name, leaf in first.items()
    }
    assert statements(files) == before


def test_two_private_runs_of_one_seed_have_different_noise(
    sites: Sequence[Path], tasks: dict[str, Task], tmp_path: Path
) -> None:
    study = STUDY.model_copy(update={"rounds": 1})
    policies = policies_of(DP_SGD, tasks, learner=STUDY.learner, rounds=1)
    one, _ = federate(study, sites, tmp_path / "one", set_up(tmp_path / "one", policies))
    two, _ = federate(study, sites, tmp_path / "two", set_up(tmp_path / "two", policies))
    assert any((one[name] != two[name]).any() for name in one)
