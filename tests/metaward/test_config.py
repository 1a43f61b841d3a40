"""A wrong configuration file is answered with every problem, its line and its key."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from metaward.config import Settings, load_settings
from metaward.errors import ConfigError
from metaward.learner_settings import (
    AnilSettings,
    FedAvgSettings,
    FomamlSettings,
    MamlSettings,
)
from metaward.model_settings import ModelSettings
from metaward.study import Study, read_study


def read(tmp_path: Path, text: str) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return load_settings(path, Study)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing yet\n") == Study()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n"])
def test_an_empty_file_is_no_study_to_run_or_to_agree_to(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"study\.yaml: the file is empty"):
        read_study(tmp_path / "study.yaml")


def test_a_study_file_of_a_relation_network_has_maps_to_compare_unless_it_says_otherwise(
    tmp_path: Path,
) -> None:
    file = tmp_path / "study.yaml"
    for model, blocks in (("", 2), ("{image_size: 64}", 3), ("{downsampled_blocks: 4}", 4)):
        file.write_text(f"learner: {{name: relation}}\n{f'model: {model}' if model else ''}\n")
        study = read_study(file)
        assert study.model.downsampled_blocks == blocks
        file.write_text(study.model_dump_json())  # as it is written down and sent
        assert read_study(file) == study
    file.write_text("learner: {name: siamese}\n")
    assert read_study(file).model == ModelSettings()


def test_a_study_of_a_resnet_is_read_again_as_it_is_written_down(tmp_path: Path) -> None:
    study = Study(model=ModelSettings(name="resnet"))
    file = tmp_path / "study.yaml"
    file.write_text(study.model_dump_json())  # with what is of conv4, as it is by default
    assert read_study(file) == study


def test_values_reach_the_settings(tmp_path: Path) -> None:
    study = read(tmp_path, "rounds: 7\nlearner:\n  name: reptile\n  inner_lr: 0.3\n")
    assert (study.rounds, study.learner.name) == (7, "reptile")


def test_every_problem_is_named_with_its_line_and_key(tmp_path: Path) -> None:
    text = "rounds: many\nlearner:\n  name: fomaml\n  inner_lrr: 0.1\nmodel:\n  filters: -1\n"
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    found = caught.value.found
    assert found.startswith("3 problems")
    assert "line 1, rounds: must be a valid integer (found 'many')" in found
    assert "line 4, learner.inner_lrr: there is no such key" in found
    assert "did you mean 'inner_lr'?" in found
    assert "line 6, model.filters" in found


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'rounds' stands twice") as caught:
        read(tmp_path, "rounds: 3\nseed: 1\nrounds: 5\n")
    assert caught.value.where.endswith("study.yaml, line 3")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds: [1, 2\n", "not valid YAML"),
        ("rounds: 1\nname: a\x01b\n", "line 2: not valid YAML .a control character"),
        ("rounds: 1\n? [a]\n: 2\n", "line 2: not valid YAML .a key that is not text"),
        ("on: 1\n", "line 1: not valid YAML .a key that is not text; put it in quotes"),
        ("2026-01-01: 1\n", "not text"),
        ("- rounds\n", "holds a list"),
        ("rounds\n", "holds a single value"),
        ("learner:\n  name: fomaml\n  inner_lr: 1e-2\n", "valid number"),
        ("learner:\n  name: fomaml\n  inner_lr: .inf\n", "learner.inner_lr"),
        ("learner:\n  name: maml3\n", "maml3"),
        ("model:\n  filters: 30\n", "must be a multiple of groups"),
        (
            "learner: {name: relation}\nmodel:\n  image_size: 16\n  filters: 8\n",
            "lower groups or downsampled_blocks, or raise image_size",
        ),
        ("model:\n  name: resnet\n  downsample: pool\n", "downsample is for conv4; resnet has"),
        ("model: {name: resnet, downsampled_blocks: 2}\n", "downsampled_blocks is for conv4"),
    ],
)
def test_other_slips_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: North!\n", "name: must be a-z, 0-9 and hyphen, at most 64 of them"),
        ("start_sha256: a\n", "start_sha256: must be 64 characters of 0-9 and a-f, or nothing"),
        ("name: no\n", r"name: must be text \(found False\); put it in quotes"),
        ("name: 12\n", r"name: must be text \(found 12\); put it in quotes"),
        ("outer: {name: sgd, tau: 1.0}\n", "outer.tau: there is no such key here;"),
        ("outer: {name: adam, tau: 1e-5}\n", r"tau: .* \(found '1e-5'\); write 1\.0e-5"),
        ("outer: {name: adam, tau: 1.5E5}\n", r"\(found '1\.5E5'\); write 1\.5e\+5"),
        ("model: []\n", r"model: must be keys with values \(found \[\]\)"),
        ("model: {image_size: 8}\n", "model.image_size: must be greater than or equal to 16"),
    ],
)
def test_a_problem_is_said_in_words_and_with_what_to_write(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


class Listed(Settings):
    held_out: int | tuple[Annotated[str, Field(min_length=2)], ...] = 1
    labels: tuple[str, ...] = Field(("a", "b"), min_length=2)


def test_what_is_wrong_with_keys_together_is_said_without_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "model: {filters: 30}\n")
    assert caught.value.found.endswith("filters (30) must be a multiple of groups (4)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("held_out: [a]\n", r"line 1, held_out\.0: must have at least 2 characters"),
        ("held_out: x\n", r"line 1, held_out: must be a list"),
        ("labels: [a]\n", "line 1, labels: must have at least 2 values, not 1"),
        ("labels: [yes, b]\n", r"line 1, labels\.0: must be text \(found True\); put it in quotes"),
        ("labels: a\n", r"line 1, labels: must be a list \(found 'a'\)"),
    ],
)
def test_of_a_list_the_item_is_named_and_no_type_of_the_program(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "listed.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_settings(tmp_path / "listed.yaml", Listed)
    assert "uple" not in caught.value.found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds: 1\nsince: 2024-02-30\n", "line 2: not valid YAML .'2024-02-30' is no date"),
        ("since: !!timestamp soon\n", "'soon' is no date"),
        ("rounds: !!int abc\n", "line 1: not valid YAML .'abc' is no whole number"),
        ("rounds: !!float abc\n", "'abc' is no number"),
        ("rounds: !!bool abc\n", "'abc' is no truth value"),
        (f"rounds: 0x{5000 * 'f'}\n", "is no whole number"),
        (f"rounds: {3000 * '['}{3000 * ']'}\n", "nested too deeply"),
        ('rounds: 1\nname: "a\\0b"\n', "line 2: not valid YAML .a control character"),
    ],
)
def test_a_value_that_cannot_be_made_is_named_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


def test_a_missing_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_settings(tmp_path / "absent.yaml", Study)
    assert "absent.yaml" in caught.value.where


def test_equal_settings_have_equal_digests_and_others_do_not() -> None:
    assert Study().digest() == Study(rounds=Study().rounds).digest()
    assert Study().digest() != Study(seed=1).digest()


def test_a_study_that_does_not_name_its_aggregation_takes_the_mean(tmp_path: Path) -> None:
    silent, said = (
        read(tmp_path, "rounds: 3\n"),
        read(tmp_path, "rounds: 3\naggregation: {name: mean}\n"),
    )
    assert silent.digest() == said.digest()
    other = read(tmp_path, "rounds: 3\naggregation: {name: median}\n")
    assert other.digest() != said.digest()


def test_an_aggregation_that_needs_more_updates_than_sites_are_asked_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"krum needs 5 .* round\.sites_per_round is 4"):
        read(tmp_path, "aggregation: {name: krum}\nround: {sites_per_round: 4}\n")
    read(tmp_path, "aggregation: {name: krum}\nround: {sites_per_round: 5}\n")


def test_a_learner_without_a_name_is_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 1, learner.name: this key is missing"):
        read(tmp_path, "learner:\n  n_shot: 3\n")


def test_keys_left_out_of_a_nested_default_keep_the_default_of_that_place(tmp_path: Path) -> None:
    study = read(tmp_path, "learner:\n  name: fedavg\n  adapt:\n    steps: 9\n")
    assert isinstance(study.learner, FedAvgSettings)
    assert study.learner.adapt.steps == 9
    assert study.learner.adapt.batch_size == FedAvgSettings().adapt.batch_size == 20


@pytest.mark.parametrize("name", ["fomaml", "maml", "anil"])
def test_a_head_of_zeros_without_a_step_is_refused(tmp_path: Path, name: str) -> None:
    blank = f"learner:\n  name: {name}\n  adapt: {{head: zeros, steps: 3}}\n"
    assert read(tmp_path, blank).learner.name == name
    for line in ("  inner_steps: 0\n", "  adapt: {head: zeros, steps: 0}\n"):
        text = blank + line if "inner" in line else f"learner:\n  name: {name}\n{line}"
        with pytest.raises(ConfigError, match="steps 0 with head zeros tells no classes apart"):
            read(tmp_path, text)


@pytest.mark.parametrize("name", ["fomaml", "maml", "anil"])
def test_a_new_site_adapts_as_the_inner_loop_does_where_nothing_else_is_said(
    tmp_path: Path, name: str
) -> None:
    inner = f"learner:\n  name: {name}\n  inner_steps: 3\n  inner_lr: 0.4\n"
    for line, steps, lr in (
        ("", 3, 0.4),
        ("  adapt: {steps: 7}\n", 7, 0.4),
        ("  adapt: {lr: 0.1}\n", 3, 0.1),
    ):
        learner = read(tmp_path, inner + line).learner
        assert isinstance(learner, FomamlSettings | MamlSettings | AnilSettings)
        assert (learner.adapt.steps, learner.adapt.lr) == (steps, lr)
    resolved = read(tmp_path, inner).model_dump_json()
    assert read(tmp_path, resolved).model_dump_json() == resolved
