"""A study that begins from a model: from that one and no other, leaf by leaf, and it is said."""

from pathlib import Path

import numpy as np
import pytest

from metaward.arrays import Arrays, to_arrays
from metaward.errors import ConfigError
from metaward.learner_settings import LearnerSettings, PrototypicalSettings, RelationSettings
from metaward.meta.compose import initial_parameters
from metaward.model_artefact import ModelCard, load_card, save_model
from metaward.model_settings import ModelSettings
from metaward.privacy_statement import PrivacyStatement
from metaward.start_model import begun_from, keep_start, read_start, with_start
from metaward.study import Study

MODEL = ModelSettings(filters=8, image_size=16, groups=2)


def theta_of(study: Study, seed: int) -> Arrays:
    return to_arrays(initial_parameters(study.model, study.learner, seed))


def saved(folder: Path, seed: int = 7, *, model: ModelSettings = MODEL,
          learner: LearnerSettings | None = None) -> tuple[Path, Arrays]:  # fmt: skip
    learner = learner or PrototypicalSettings()
    study = Study(name="public", rounds=4, model=model, learner=learner)
    theta = theta_of(study, seed)
    save_model(folder, ModelCard.of_study(study, PrivacyStatement()), theta)
    return folder, theta


def study_from(folder: Path, **changes: object) -> Study:
    sha256 = load_card(folder).parameters_sha256
    return Study(model=MODEL, start_sha256=sha256).model_copy(update=changes)


def test_theta_begins_at_the_models_parameters(tmp_path: Path) -> None:
    folder, theta = saved(tmp_path / "m")
    study = study_from(folder)
    begun = begun_from(study, theta_of(study, seed=0), folder)
    assert begun.keys() == theta.keys()
    assert all(np.array_equal(begun[name], theta[name]) for name in theta)


def test_what_the_model_has_not_is_as_without_a_start(tmp_path: Path) -> None:
    """From a prototypical network to a relation network: its second network is new."""
    folder, theta = saved(tmp_path / "m")
    study = study_from(folder, learner=RelationSettings())
    untrained = theta_of(study, seed=0)
    begun = begun_from(study, untrained, folder)
    assert begun.keys() == untrained.keys()
    assert len(begun) > len(theta)
    for name, leaf in begun.items():
        expected = theta.get(name, untrained[name])
        np.testing.assert_array_equal(leaf, expected)


def test_what_only_the_model_has_is_left_out(tmp_path: Path) -> None:
    folder, theta = saved(tmp_path / "m", learner=RelationSettings())
    study = study_from(folder)
    begun = begun_from(study, theta_of(study, seed=0), folder)
    assert begun.keys() < theta.keys()
    assert all(np.array_equal(leaf, theta[name]) for name, leaf in begun.items())


def test_the_size_of_images_may_differ(tmp_path: Path) -> None:
    larger = MODEL.model_copy(update={"image_size": 32})
    folder, theta = saved(tmp_path / "m", model=larger)
    study = study_from(folder)
    begun = begun_from(study, theta_of(study, seed=0), folder)
    assert all(np.array_equal(leaf, theta[name]) for name, leaf in begun.items())


def test_a_learners_leaf_of_another_shape_is_as_without_a_start(tmp_path: Path) -> None:
    """A relation network's second network may be wider than the start's."""
    folder, theta = saved(tmp_path / "m", learner=RelationSettings(filters=16))
    study = study_from(folder, learner=RelationSettings())
    untrained = theta_of(study, seed=0)
    begun = begun_from(study, untrained, folder)
    unlike = {name for name, leaf in untrained.items() if leaf.shape != theta[name].shape}
    assert unlike
    for name, leaf in begun.items():
        np.testing.assert_array_equal(leaf, (untrained if name in unlike else theta)[name])


@pytest.mark.parametrize(
    "other",
    [
        {"filters": 16},
        {"downsample": "pool", "image_size": 32},
        {"downsampled_blocks": 3},
        {"groups": 1},
    ],
)
def test_another_network_is_refused_also_where_its_arrays_would_fit(
    tmp_path: Path, other: dict[str, object]
) -> None:
    folder, _ = saved(tmp_path / "m", model=MODEL.model_copy(update=other))
    key, value = next(iter(other.items()))
    with pytest.raises(ConfigError, match=f"a model with {key} {value}; expected {key}"):
        read_start(folder, study_from(folder))


def test_another_model_than_the_study_names_is_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "m")
    study = study_from(saved(tmp_path / "other", seed=8)[0])
    with pytest.raises(ConfigError, match="from which the study begins"):
        read_start(folder, study)


def test_what_a_run_keeps_is_what_it_began_from(tmp_path: Path) -> None:
    folder, theta = saved(tmp_path / "m")
    study = study_from(folder)
    kept = keep_start(read_start(folder, study), tmp_path / "run")
    again = read_start(kept, study)
    assert all(np.array_equal(leaf, theta[name]) for name, leaf in again.theta.items())


def test_the_promise_says_what_is_said_of_the_start(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "m")
    private = PrivacyStatement(mechanism="patient DP-SGD", unit="patient", epsilon=3.0)
    study = study_from(folder)
    statement = with_start(private, study, folder)
    assert statement.is_private
    assert "epsilon 3.00" in statement.sentence
    assert "Training began from the model of study public" in statement.sentence
    assert statement.sentence.endswith("NOT PRIVATE: the deltas carried no differential privacy.")
    assert with_start(private, Study(model=MODEL), folder) == private


def test_a_long_line_of_starts_still_ends_in_a_card(tmp_path: Path) -> None:
    """Each model says what was said of the one before it; training must not be lost for that."""
    folder, theta = saved(tmp_path / "0")
    for number in range(1, 40):
        study = study_from(folder, name=f"study-{number}")
        statement = with_start(PrivacyStatement(), study, folder)
        folder = tmp_path / str(number)
        save_model(folder, ModelCard.of_study(study, statement), theta)
    said = load_card(folder).privacy.sentence
    assert said.count("Training began from") > 20
    assert said.endswith("[…]")
