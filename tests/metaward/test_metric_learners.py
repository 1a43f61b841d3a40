"""What every metric learner promises, whatever it compares images by."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaward.arrays import Tensors, to_arrays, to_tensors
from metaward.episodes import Episode, sample_episode
from metaward.errors import ConfigError, DataError
from metaward.learner_settings import (
    LearnerSettings,
    MatchingSettings,
    PrototypicalSettings,
    RelationSettings,
    SiameseSettings,
)
from metaward.meta import matching, prototypical, relation, siamese
from metaward.meta.compose import build_learner, build_noised_learner, initial_parameters
from metaward.meta.learner import LocalResult
from metaward.model_artefact import ModelCard, expected_shapes, load_model, save_model
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.privacy_statement import PrivacyStatement
from metaward.study import AdamSettings, Study
from metaward.theta import own_leaves
from metaward.wire import (
    RoundOrder,
    Update,
    decode_order,
    decode_update,
    encode_order,
    encode_update,
)
from metaward.wire_arrays import spec_of
from metaward_server.outer_optimizers import initial_state, outer_step
from metric_cases import (
    MODEL,
    SHOTS,
    WAYS,
    assert_finite_differences_agree,
    assert_same,
    bars,
    episode_of,
    float64_theta,
    random_episode,
    relabelled,
    reordered,
)

EPISODE = {"n_way": 3, "n_shot": 2, "n_query": 3, "episodes": 2, "augment": "none"}
LEARNERS: dict[str, LearnerSettings] = {
    "prototypical-cosine": PrototypicalSettings(distance="cosine", **EPISODE),
    "prototypical-margin": PrototypicalSettings(loss="margin", **EPISODE),
    "matching": MatchingSettings(**EPISODE),
    "matching-margin": MatchingSettings(loss="margin", **EPISODE),
    "matching-context": MatchingSettings(full_context=True, processing_steps=2, **EPISODE),
    "relation": RelationSettings(**EPISODE),
    "relation-margin": RelationSettings(loss="margin", **EPISODE),
    "relation-paper": RelationSettings(loss="squared", class_map="sum", **EPISODE),
    "siamese": SiameseSettings(**EPISODE),
    "siamese-contrastive": SiameseSettings(loss="contrastive", **EPISODE),
}
FILE_OF: dict[str, Any] = {  # Any: each task_delta takes settings of its own
    "prototypical": prototypical,
    "matching": matching,
    "relation": relation,
    "siamese": siamese,
}
BODIES = {
    "conv4": MODEL,
    "pool": MODEL.model_copy(update={"downsample": "pool"}),
    "resnet": ModelSettings(name="resnet", filters=4, groups=1, image_size=16),
}
every_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS.keys())

pytestmark = pytest.mark.usefixtures("one_thread")


def delta_of(body: Body, theta: Tensors, episode: Episode, learner: LearnerSettings) -> LocalResult:
    result: LocalResult = FILE_OF[learner.name].task_delta(body, theta, episode, learner)
    return result


def start(learner: LearnerSettings, model: ModelSettings = MODEL) -> tuple[Body, Tensors]:
    return build_body(model, 5), initial_parameters(model, learner, 5)


ORDER = st.permutations(range(WAYS * SHOTS))
NUMBERS = st.permutations(range(WAYS))


@every_learner
@settings(max_examples=5)
@given(new_number=NUMBERS, order=ORDER)
def test_neither_the_numbers_of_the_classes_nor_the_order_of_images_change_the_delta(
    learner: LearnerSettings, new_number: list[int], order: list[int]
) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    other = episode_of(
        reordered(relabelled(episode.support, new_number), order),
        reordered(relabelled(episode.query, new_number), order),
    )
    one, same = (delta_of(body, theta, e, learner) for e in (episode, other))
    assert same.loss == pytest.approx(one.loss, rel=1e-9)
    assert_same(same.delta, one.delta)


@every_learner
@settings(max_examples=5)
@given(new_number=NUMBERS, order=ORDER)
def test_numbering_the_classes_anew_renumbers_the_answers_and_nothing_else(
    learner: LearnerSettings, new_number: list[int], order: list[int]
) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    adapt = build_learner(learner).adapt
    logits = adapt(body, theta, episode.support)(episode.query.images)
    other = reordered(relabelled(episode.support, new_number), order)
    renumbered = adapt(body, theta, other)(episode.query.images)
    torch.testing.assert_close(renumbered[:, new_number], logits, rtol=1e-7, atol=1e-9)


@every_learner
def test_an_answer_depends_on_no_other_query(learner: LearnerSettings) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    classify = build_learner(learner).adapt(body, theta, episode.support)
    images = episode.query.images
    together = classify(images)
    assert together.shape == (WAYS * SHOTS, WAYS)
    torch.testing.assert_close(classify(images.flip(0)).flip(0), together, rtol=1e-7, atol=1e-9)
    alone = torch.cat([classify(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-7, atol=1e-9)


@every_learner
def test_adapting_and_learning_leave_theta_as_it_was(learner: LearnerSettings) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    before = {name: leaf.clone() for name, leaf in theta.items()}
    classify = build_learner(learner).adapt(body, theta, episode.support)
    assert not classify(episode.query.images).requires_grad
    delta_of(body, theta, episode, learner)
    for name, leaf in theta.items():
        assert torch.equal(leaf, before[name])
        assert not leaf.requires_grad


@every_learner
@pytest.mark.parametrize("model", BODIES.values(), ids=BODIES.keys())
def test_a_delta_has_the_leaves_of_theta_in_its_order_and_none_stands_still(
    learner: LearnerSettings, model: ModelSettings
) -> None:
    body, theta = float64_theta(learner, model)
    delta = delta_of(body, theta, random_episode(), learner).delta
    assert list(delta) == list(theta)
    for name, leaf in delta.items():
        assert leaf.shape == theta[name].shape
        assert leaf.any(), name


@every_learner
def test_the_delta_agrees_with_finite_differences(learner: LearnerSettings) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    assert_finite_differences_agree(lambda point: delta_of(body, point, episode, learner), theta)


@every_learner
def test_the_learners_own_leaves_are_a_function_of_form_and_seed_alone(
    learner: LearnerSettings,
) -> None:
    state = torch.get_rng_state()
    one, same = (initial_parameters(MODEL, learner, 5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert expected_shapes(MODEL, learner) == {n: tuple(leaf.shape) for n, leaf in one.items()}
    assert all(leaf.dtype == torch.float32 for leaf in one.values())


@every_learner
def test_a_delta_points_downhill(learner: LearnerSettings) -> None:
    (body, theta), task = start(learner), bars()
    work = build_learner(learner).local_delta
    before = work(body, theta, task, np.random.default_rng(3))
    norm = math.sqrt(sum(float(leaf.square().sum()) for leaf in before.delta.values()))
    moved = {name: leaf + 0.02 / norm * before.delta[name] for name, leaf in theta.items()}
    assert work(body, moved, task, np.random.default_rng(3)).loss < before.loss


def accuracy(learner: LearnerSettings, body: Body, theta: Tensors) -> float:
    """Mean over ten episodes of a hospital that the learner has not seen."""
    task, right = bars(seed=77), []
    for number in range(10):
        rng = np.random.default_rng(number)
        episode = sample_episode(task, n_way=3, n_shot=2, n_query=6, rng=rng)
        logits = build_learner(learner).adapt(body, theta, episode.support)(episode.query.images)
        right.append((logits.argmax(1) == episode.query.labels).double().mean())
    return float(torch.stack(right).mean())


@every_learner
def test_a_few_rounds_teach_what_a_new_hospital_can_use(learner: LearnerSettings) -> None:
    (body, theta), task = start(learner), bars()
    outer = AdamSettings(step_size=2.0e-3 if learner.name == "relation" else 5.0e-3)
    untrained = accuracy(learner, body, theta)
    arrays = to_arrays(theta)
    state = initial_state(outer, arrays)
    for round_index in range(24):
        rng = np.random.default_rng([1, round_index])
        result = build_learner(learner).local_delta(body, to_tensors(arrays), task, rng)
        arrays, state = outer_step(outer, state, arrays, to_arrays(result.delta))
    assert accuracy(learner, body, to_tensors(arrays)) > untrained + 0.15


@every_learner
def test_the_same_generator_gives_the_same_bits(learner: LearnerSettings) -> None:
    (body, theta), task = start(learner), bars()
    work = build_learner(learner).local_delta
    one, same, other = (work(body, theta, task, np.random.default_rng(s)) for s in (1, 1, 2))
    assert one.loss == same.loss != other.loss
    assert all(torch.equal(one.delta[name], same.delta[name]) for name in theta)


@every_learner
def test_a_site_with_too_little_is_told_before_it_works(learner: LearnerSettings) -> None:
    with pytest.raises(DataError, match="3 images of 3 patients"):
        build_learner(learner).require_fit(bars(patients_per_label=3))
    build_learner(learner).require_fit(bars(patients_per_label=5))


@every_learner
def test_all_leaves_cross_the_wire_and_are_stored_for_a_new_site_with_other_labels(
    learner: LearnerSettings, tmp_path: Path
) -> None:
    body, theta = start(learner)
    study = Study(seed=5, model=MODEL, learner=learner)
    spec = expected_shapes(MODEL, learner)
    sent = decode_order(encode_order(RoundOrder(study, 0, to_arrays(theta))), lambda _: spec)
    result = build_learner(sent.study.learner).local_delta(
        body, to_tensors(sent.theta), bars(), np.random.default_rng(0)
    )
    update = Update(study.digest(), 0, to_arrays(result.delta))
    delta = decode_update(encode_update(update), spec_of(to_arrays(theta))).delta
    moved = {name: leaf + delta[name] for name, leaf in to_arrays(theta).items()}

    save_model(tmp_path / "model", ModelCard.of_study(study, PrivacyStatement()), moved)
    loaded = load_model(tmp_path / "model")
    assert loaded.card.learner == learner
    assert own_leaves(to_tensors(loaded.theta)).keys() == own_leaves(theta).keys()
    support = sample_episode(
        bars(), n_way=2, n_shot=1, n_query=1, rng=np.random.default_rng(0)
    ).support
    answers = [
        build_learner(settings).adapt(body, to_tensors(arrays), support)(support.images)
        for settings, arrays in ((learner, moved), (loaded.card.learner, loaded.theta))
    ]
    assert answers[0].shape == (2, 2)
    assert torch.equal(*answers)


@every_learner
def test_classes_may_have_unequal_numbers_of_images(learner: LearnerSettings) -> None:
    (body, theta), episode = float64_theta(learner), random_episode()
    keep = [0, 1, 2, 4, 5]
    support = reordered(episode.support, keep)
    assert torch.isfinite(
        build_learner(learner).adapt(body, theta, support)(episode.query.images)
    ).all()


@every_learner
def test_no_form_of_it_works_from_noised_answers(learner: LearnerSettings) -> None:
    with pytest.raises(ConfigError, match=r"mechanism dp-sgd; expected .* mechanism block"):
        build_noised_learner(learner, steps=2)
