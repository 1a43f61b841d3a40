"""The hospital's policy: what it says, what it refuses, and who may set it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from metaward.config import validate_settings
from metaward.errors import ConfigError
from metaward.privacy_promise import BLOCK, DP_SGD
from metaward.study import Study
from metaward_client.privacy.policy import (
    MOST_BLOCKS,
    BlockPolicy,
    DpSgdPolicy,
    NoPrivacy,
    PolicyFile,
    read_policy_file,
    statement_of_relation,
)
from metaward_client.privacy.terms import Budget, Relation, Terms

NEEDED = {"target_epsilon": 8.0, "target_delta": 1e-4, "population": 1000}


def policy(**keys: Any) -> Any:
    return validate_settings({"privacy": keys}, PolicyFile, where="test").privacy


def dp_sgd(**keys: Any) -> Any:
    return policy(**({"mechanism": "dp-sgd", "labels": ["a", "b"]} | NEEDED | keys))


def block(**keys: Any) -> Any:
    return policy(mechanism="block", **(NEEDED | keys))


def test_terms_of_dp_sgd_divide_by_rate_times_population() -> None:
    chosen = dp_sgd(
        noise_multiplier=1.5, sample_rate=0.02, steps_per_round=7, max_grad_norm=0.5,
        adaptive_clipping=True,
    )  # fmt: skip
    assert chosen.terms() == Terms(DP_SGD, 1.5, 0.02, 7, 0.5, 0.02 * 1000, True)
    assert statement_of_relation(chosen) == Relation.ADD_OR_REMOVE_ONE.value


def test_terms_of_block_release_divide_by_rate_times_blocks() -> None:
    chosen = block(noise_multiplier=4.0, sample_rate=0.5, blocks=30, max_grad_norm=2.0)
    assert chosen.terms() == Terms(BLOCK, 4.0, 0.5, 1, 2.0, 15.0, False)
    assert statement_of_relation(chosen) == Relation.REPLACE_ONE.value


@pytest.mark.parametrize(
    ("population", "blocks"), [(2000, 40), (2049, 40), (60, 2), (10_000_000, MOST_BLOCKS)]
)
def test_blocks_left_out_are_one_for_every_fifty_patients_that_the_hospital_says_it_has(
    population: int, blocks: int
) -> None:
    chosen = block(population=population, target_delta=1e-9, sample_rate=0.5)
    assert chosen.blocks is None
    assert chosen.n_blocks == blocks
    assert chosen.terms().divisor == 0.5 * blocks


def test_the_budget_is_what_the_policy_says() -> None:
    assert dp_sgd().budget == Budget(8.0, 1e-4)


def test_what_is_left_out_is_cautious() -> None:
    chosen = dp_sgd()
    assert (chosen.unit, chosen.noise_multiplier, chosen.sample_rate) == ("patient", 2.5, 0.3)
    assert (chosen.max_grad_norm, block().max_grad_norm) == (3.0, 1.0)
    assert not chosen.adaptive_clipping
    assert (chosen.steps_per_round, chosen.images_per_patient, chosen.rounds) == (2, 4, 1000)
    assert chosen.witness is None


@pytest.mark.parametrize("build", [dp_sgd, block])
def test_delta_is_at_most_a_tenth_of_one_over_the_population(build: Any) -> None:
    assert build(target_delta=1e-4).target_delta == 1e-4
    with pytest.raises(ConfigError, match=r"must be at most 1 / \(10 population\)"):
        build(target_delta=1.01e-4)
    with pytest.raises(ConfigError, match=r"target_delta"):
        build(population=1001)


@pytest.mark.parametrize(
    ("build", "keys", "named"),
    [
        (dp_sgd, {"target_epsilon": 0.0}, "target_epsilon"),
        (dp_sgd, {"target_epsilon": 101.0}, "target_epsilon"),
        (dp_sgd, {"target_delta": 0.0}, "target_delta"),
        (dp_sgd, {"target_delta": 9e-11}, "target_delta"),  # no accountant can resolve it
        (dp_sgd, {"population": 9}, "population"),
        (block, {"population": 10**400}, "population"),  # no float can hold it
        (dp_sgd, {"noise_multiplier": 0.0}, "noise_multiplier"),
        (dp_sgd, {"noise_multiplier": float("inf")}, "noise_multiplier"),
        (dp_sgd, {"noise_multiplier": 1e-308}, "noise_multiplier"),
        (block, {"noise_multiplier": 1e308}, "noise_multiplier"),
        (dp_sgd, {"max_grad_norm": 1e308}, "max_grad_norm"),
        (dp_sgd, {"sample_rate": 1.01}, "sample_rate"),
        (dp_sgd, {"sample_rate": 0.0}, "sample_rate"),
        (dp_sgd, {"max_grad_norm": 0.0}, "max_grad_norm"),
        (dp_sgd, {"steps_per_round": 0}, "steps_per_round"),
        (dp_sgd, {"images_per_patient": 0}, "images_per_patient"),
        (dp_sgd, {"rounds": 0}, "rounds"),
        (dp_sgd, {"labels": ["a"]}, "labels"),
        (dp_sgd, {"labels": ["a", "a"]}, "same label twice"),
        (dp_sgd, {"labels": ["L\u00e4sion", "La\u0308sion"]}, "same label twice"),
        (dp_sgd, {"labels": ["a", ""]}, "labels"),
        (dp_sgd, {"unit": "image"}, "unit"),
        (dp_sgd, {"noise": 1.0}, "noise"),
        (dp_sgd, {"seed": 1}, "seed"),
        (dp_sgd, {"blocks": 4}, "blocks"),
        (block, {"blocks": 1}, "blocks"),
        (block, {"steps_per_round": 5}, "steps_per_round"),
        (block, {"labels": ["a", "b"]}, "labels"),
        (policy, {"mechanism": "none", "target_epsilon": 1.0}, "target_epsilon"),
        (policy, {"mechanism": "off"}, "there is no 'off'"),
        (policy, {}, "mechanism: this key is missing"),
    ],
)
def test_what_does_not_protect_or_is_not_known_is_refused(
    build: Any, keys: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        build(**keys)


@pytest.mark.parametrize("missing", NEEDED)
def test_nobody_guesses_what_patients_may_lose(missing: str) -> None:
    keys = {key: value for key, value in NEEDED.items() if key != missing}
    with pytest.raises(ConfigError, match=missing):
        policy(mechanism="block", **keys)


def test_no_mechanism_says_so_wherever_it_is_shown() -> None:
    assert policy(mechanism="none").label == "none (NOT PRIVATE)"
    assert (dp_sgd().label, block().label) == ("patient DP-SGD", "block release")


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "north.yaml"
    path.write_text(
        "privacy:\n  mechanism: block\n  target_epsilon: 8\n  target_delta: 1.0e-5\n"
        "  population: 100\n  ledger: ../l\n"
    )
    chosen = read_policy_file(path)
    assert isinstance(chosen, BlockPolicy)
    assert chosen.ledger == tmp_path.parent / "l"
    assert chosen.witness is None
    path.write_text(path.read_text() + f"  witness: {tmp_path}/elsewhere\n")
    chosen = read_policy_file(path)
    assert isinstance(chosen, BlockPolicy)
    assert chosen.witness == tmp_path / "elsewhere"


def test_a_link_in_the_place_of_the_ledger_is_left_for_the_ledger_to_refuse(
    tmp_path: Path,
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path = tmp_path / "north.yaml"
    path.write_text(
        "privacy: {mechanism: block, target_epsilon: 8, target_delta: 1.0e-5, population: 100,"
        " ledger: link}\n"
    )
    chosen = read_policy_file(path)
    assert isinstance(chosen, BlockPolicy)
    assert chosen.ledger == tmp_path / "link"


def keys_of(model: type[BaseModel]) -> Iterator[str]:
    """Give every key in a settings model and in the models inside it."""

    def walk(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from schema.get("properties", {})
            for value in schema.values():
                yield from walk(value)
        elif isinstance(schema, list):
            for value in schema:
                yield from walk(value)

    yield from walk(model.model_json_schema())


def test_a_study_has_no_word_in_what_patients_lose() -> None:
    """No key of a policy is a key of a study, but for `rounds`, which a site only ever lowers."""
    policies = {*keys_of(DpSgdPolicy), *keys_of(BlockPolicy), *keys_of(NoPrivacy)}
    assert {"target_epsilon", "noise_multiplier", "max_grad_norm", "sample_rate", "labels",
            "steps_per_round", "population", "images_per_patient", "ledger"} < policies  # fmt: skip
    assert policies & set(keys_of(Study)) == {"rounds"}


@pytest.mark.parametrize(
    "word", ["privacy", "epsilon", "noise", "clip", "sigma", "sample_rate", "grad_norm", "ledger"]
)
def test_no_key_of_a_study_speaks_of_privacy(word: str) -> None:
    assert not [key for key in keys_of(Study) if word in key]
