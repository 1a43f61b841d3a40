"""An adapted model: stored whole, closed to others, and refused where it was damaged."""

import hashlib
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load, save

from metaward.adapted_model import (
    AdaptedCard,
    adapted_classifier,
    load_adapted,
    save_adapted,
)
from metaward.arrays import to_arrays
from metaward.episodes import Examples
from metaward.errors import ConfigError
from metaward.labelled_support import labelled_support
from metaward.learner_settings import (
    FomamlSettings,
    LearnerSettings,
    MannSettings,
    MatchingSettings,
    PrototypicalSettings,
)
from metaward.left_out_check import FindingCheck, LeftOutCheck
from metaward.meta.classifier import Classifier
from metaward.meta.compose import initial_parameters
from metaward.model_artefact import ModelArtefact, ModelCard, load_model, save_model
from metaward.privacy_statement import PrivacyStatement
from metaward.run_directory import model_folder
from metaward.study import Study
from metaward.tasks import standardise
from toy_episodes import MODEL, striped_task

CARD = AdaptedCard(
    site="north", labels=("a", "b", "ç"), adapted_on=(4, 4, 4), most=4, seed=0, created_by="tests"
)
LEARNERS = (
    PrototypicalSettings(n_way=3, n_shot=2, n_query=2),
    FomamlSettings(n_way=3, n_shot=2, n_query=2),
    MatchingSettings(n_way=3, n_shot=2, n_query=2),
    MannSettings(n_way=3, n_shot=2, n_query=2),
)
"""One for each thing that is kept: a head, a body, features, a memory."""

pytestmark = pytest.mark.usefixtures("one_thread")


def shared(learner: LearnerSettings) -> ModelArtefact:
    study = Study(model=MODEL, learner=learner, seed=1)
    theta = to_arrays(initial_parameters(MODEL, learner, seed=1))
    return ModelArtefact(ModelCard.of_study(study, PrivacyStatement()), theta)


def trained_further(artefact: ModelArtefact) -> ModelArtefact:
    moved = {name: leaf * np.float32(1.5) for name, leaf in artefact.theta.items()}
    return ModelArtefact(artefact.card, moved)


def support() -> Examples:
    return labelled_support(striped_task(), most=4, rng=np.random.default_rng(0))


def written(folder: Path, learner: LearnerSettings = LEARNERS[0]) -> Classifier:
    artefact = shared(learner)
    classify = adapted_classifier(artefact, support())
    folder.mkdir()
    save_adapted(folder, CARD, artefact, classify)
    return classify


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_a_stored_model_gives_the_answers_of_the_one_that_was_adapted(
    learner: LearnerSettings, tmp_path: Path
) -> None:
    classify = written(tmp_path / "adapted", learner)
    loaded = load_adapted(tmp_path / "adapted")
    images = striped_task().images[::5]
    logits = classify(standardise(torch.from_numpy(images)))
    scores = loaded.scores(images)
    np.testing.assert_allclose(scores, torch.softmax(logits.double(), dim=1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    assert loaded.card.labels == ("a", "b", "ç")


def test_no_other_user_may_look_at_what_was_made_from_patients(tmp_path: Path) -> None:
    written(tmp_path / "adapted")
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "adapted", *(tmp_path / "adapted").glob("adapted.*"))
    }
    assert modes == {"adapted": 0o700, "adapted.yaml": 0o600, "adapted.safetensors": 0o600}


def test_whoever_takes_the_folder_for_a_run_gets_the_shared_model_and_nothing_of_patients(
    tmp_path: Path,
) -> None:
    written(tmp_path / "adapted", LEARNERS[1])
    found = load_model(model_folder(tmp_path / "adapted"))
    theta = shared(LEARNERS[1]).theta
    assert found.theta.keys() == theta.keys()
    assert all(np.array_equal(found.theta[name], leaf) for name, leaf in theta.items())


def test_a_folder_whose_writing_was_interrupted_is_no_adapted_model(tmp_path: Path) -> None:
    """The card comes last: whatever was written before it, there is none."""
    written(tmp_path / "adapted")
    (tmp_path / "adapted" / "adapted.yaml").unlink()
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_adapted(tmp_path / "adapted")
    assert caught.value.where.endswith("adapted.yaml")


def change(card: Path, key: str, value: object) -> None:
    fields = yaml.safe_load(card.read_text())
    fields[key] = value
    card.write_text(yaml.safe_dump(fields))


def test_a_thousand_findings_fit_into_a_card(tmp_path: Path) -> None:
    names = tuple(f"finding {number}" for number in range(1000))
    of_each = tuple(
        FindingCheck(label=name, right=1, images=3, patients=3, share=1 / 3, ci95=(0.1, 0.9))
        for name in names
    )
    check = LeftOutCheck(folds=3, findings=of_each, share=1 / 3, ci95=(0.3, 0.4))
    images = torch.rand(1000, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    artefact = shared(LEARNERS[0])
    seen = Examples(standardise(images), torch.arange(1000), n_way=1000)
    changes = {"labels": names, "adapted_on": (1,) * 1000, "check": check}
    save_adapted(
        tmp_path, CARD.model_copy(update=changes), artefact, adapted_classifier(artefact, seen)
    )
    assert load_adapted(tmp_path).card.check == check


def test_a_byte_that_changed_is_found(tmp_path: Path) -> None:
    written(tmp_path / "adapted")
    kept = tmp_path / "adapted" / "adapted.safetensors"
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(ConfigError, match="not the one that the card speaks of"):
        load_adapted(tmp_path / "adapted")


@pytest.mark.parametrize(
    "other",
    [
        shared(LEARNERS[2]),
        shared(LEARNERS[0].model_copy(update={"temperature": 0.7})),
        trained_further(shared(LEARNERS[0])),
    ],
    ids=["of another learner", "of another temperature", "of a later round"],
)
def test_another_shared_model_than_that_which_was_adapted_is_found(
    other: ModelArtefact, tmp_path: Path
) -> None:
    """Its numbers may fit all the same, and would then name findings without a word."""
    written(tmp_path / "adapted", LEARNERS[0])
    save_model(tmp_path / "adapted" / "model", other.card, other.theta)
    with pytest.raises(ConfigError, match="another shared model than that which was adapted"):
        load_adapted(tmp_path / "adapted")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("labels", ["a", "b"], "3 counts for 2 labels"),
        ("kept", {"head.weight": [2**20, 2**20]}, "kept has more than 268,435,456 values"),
        ("kept", {"head.weight": [3, 999], "head.bias": [3]}, "head.weight"),
        ("labels", ["a", "b", "a"], "a label stands twice"),
        ("labels", ["a", "b", "\x1b[31mc"], "a label with a control character"),
        ("labels", ["a", "b", ""], r"labels\.2"),
        ("window", [40.0, 0.0], r"window"),
        ("kept_sha256", "ab" * 32, "not the one that the card speaks of"),
        ("format_version", 2, "format_version"),
    ],
)
def test_a_card_that_says_what_cannot_be_is_refused(
    key: str, value: object, problem: str, tmp_path: Path
) -> None:
    written(tmp_path / "adapted")
    change(tmp_path / "adapted" / "adapted.yaml", key, value)
    with pytest.raises(ConfigError, match=problem):
        load_adapted(tmp_path / "adapted")


def test_a_card_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Lists of aliases of lists of aliases: a few lines that stand for more than memory holds."""
    written(tmp_path / "adapted")
    card = tmp_path / "adapted" / "adapted.yaml"
    card.write_text(card.read_text() + "x: &x [1]\ny: [*x, *x]\n")
    with pytest.raises(ConfigError, match="YAML anchors or aliases"):
        load_adapted(tmp_path / "adapted")


def test_labels_that_the_numbers_are_not_of_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "adapted")
    change(tmp_path / "adapted" / "adapted.yaml", "labels", ["a", "b", "c", "d"])
    change(tmp_path / "adapted" / "adapted.yaml", "adapted_on", [4, 4, 4, 4])
    with pytest.raises(ConfigError, match="or of other findings"):
        load_adapted(tmp_path / "adapted")


@pytest.mark.parametrize(("name", "axis"), [("hidden", None), ("cell", None), ("read_weights", 0)])
def test_a_memory_of_another_form_is_refused_before_an_image_is_named(
    name: str, axis: int | None, tmp_path: Path
) -> None:
    """With one axis more, or made for two images at once."""
    written(tmp_path / "adapted", LEARNERS[3])
    path, card = tmp_path / "adapted" / "adapted.safetensors", tmp_path / "adapted" / "adapted.yaml"
    kept = load(path.read_bytes())
    kept[name] = kept[name][None] if axis is None else np.repeat(kept[name], 2, axis=axis)
    path.write_bytes(save(kept))
    change(card, "kept", {leaf: list(values.shape) for leaf, values in kept.items()})
    change(card, "kept_sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ConfigError, match="numbers that are not of this model"):
        load_adapted(tmp_path / "adapted")
