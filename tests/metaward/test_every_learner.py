"""What every learner promises, whatever its equations: its sign, no traces, a way between sites."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Arrays, Tensors, to_arrays, to_tensors
from metaward.config import Settings
from metaward.episodes import Examples, sample_episode
from metaward.errors import DataError
from metaward.learner_settings import (
    AnilSettings,
    FedAvgSettings,
    FomamlSettings,
    HallucinationSettings,
    LearnerSettings,
    MamlSettings,
    MannSettings,
    MatchingSettings,
    MetaSgdSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
    SiameseSettings,
)
from metaward.meta.compose import build_learner, initial_parameters
from metaward.model_artefact import ModelCard, expected_shapes, load_model, save_model
from metaward.models.build import build_body
from metaward.privacy_statement import PrivacyStatement
from metaward.study import Study
from metaward.tasks import Task
from metaward.wire import (
    RoundOrder,
    Update,
    decode_order,
    decode_update,
    encode_order,
    encode_update,
)
from metaward.wire_arrays import spec_of
from metaward_client.privacy.block_release import block_release
from metaward_client.privacy.noised_sum import NoisedSums
from metaward_client.privacy.stored_reply import decode_reply, encode_reply
from metaward_client.privacy.terms import Terms
from metaward_server.aggregation.compose import aggregate
from metaward_server.outer_optimizers import initial_state, outer_step
from private_site import KnownSource, twelve_patients
from toy_episodes import (
    MODEL,
    SHOTS,
    WAYS,
    conv_body,
    float64_theta,
    random_episode,
    rearranged,
    striped_task,
)

EPISODES: dict[str, Any] = {"n_way": 3, "n_shot": 2, "n_query": 2, "augment": "none"}
ADAPT = AdaptSettings(steps=3, lr=0.1)
QUICK: tuple[LearnerSettings, ...] = (
    PrototypicalSettings(**EPISODES),
    FomamlSettings(inner_lr=0.01, adapt=ADAPT, **EPISODES),
    MamlSettings(inner_steps=2, inner_lr=0.01, adapt=ADAPT, **EPISODES),
    MamlSettings(inner_steps=2, inner_lr=0.01, checkpoint=True, adapt=ADAPT, **EPISODES),
    AnilSettings(inner_lr=0.05, adapt=ADAPT, **EPISODES),
    MetaSgdSettings(inner_lr=0.01, **EPISODES),
    MetaSgdSettings(inner_lr=0.01, rates="layer", **EPISODES),
    ReptileSettings(n_way=3, n_shot=4, inner_lr=0.05, augment="none", adapt=ADAPT),
    ReptileSettings(n_way=3, n_shot=4, inner_optimizer="adam", augment="none"),
    FedAvgSettings(local_steps=3, batch_size=12, local_lr=0.05, augment="none", adapt=ADAPT),
)
"""Those that learn a toy task in a few rounds of plain steps; the others have that in own tests."""
LEARNERS: tuple[LearnerSettings, ...] = (
    *QUICK,
    MatchingSettings(**EPISODES),
    MatchingSettings(full_context=True, **EPISODES),
    RelationSettings(**EPISODES),
    SiameseSettings(**EPISODES),
    SiameseSettings(loss="contrastive", **EPISODES),
    MannSettings(**EPISODES),
    HallucinationSettings(**EPISODES),
)
every_learner = pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_settings_that_no_learner_is_built_from_are_named() -> None:
    """As those of a new learner that has no case yet: None would fail somewhere else."""

    class MedianSettings(Settings):
        name: str = "median"

    with pytest.raises(AssertionError, match=r"MedianSettings\(name='median'\)"):
        build_learner(MedianSettings())  # type: ignore[arg-type] # that is the point


def test_every_learner_of_the_library_is_here() -> None:
    [kinds, _] = get_args(LearnerSettings)
    assert {type(learner) for learner in LEARNERS} == set(get_args(kinds))


def local_delta(learner: LearnerSettings, theta: Tensors, task: Task, seed: int = 3) -> Tensors:
    rng = np.random.default_rng(seed)
    return build_learner(learner).local_delta(build_body(MODEL, 1), theta, task, rng).delta


@every_learner
def test_a_delta_has_the_leaves_of_theta_and_points_downhill(learner: LearnerSettings) -> None:
    """The sign convention: theta + small * delta has a lower loss than theta."""
    body, task = build_body(MODEL, 1), striped_task()
    theta = initial_parameters(MODEL, learner, seed=1)
    built = build_learner(learner)
    before = built.local_delta(body, theta, task, np.random.default_rng(3))
    assert list(before.delta) == list(theta)
    assert not any(leaf.requires_grad for leaf in before.delta.values())
    norm = math.sqrt(sum(float(leaf.square().sum()) for leaf in before.delta.values()))
    moved = {name: leaf + 0.01 / norm * before.delta[name] for name, leaf in theta.items()}
    after = built.local_delta(body, moved, task, np.random.default_rng(3))
    assert after.loss < before.loss


@every_learner
def test_a_delta_holds_no_graph_where_theta_tracks_gradients(learner: LearnerSettings) -> None:
    """As the parameters of a torch optimiser do; a graph would grow with every round."""
    theta = {name: leaf.requires_grad_() for name, leaf in
             initial_parameters(MODEL, learner, seed=1).items()}  # fmt: skip
    delta = local_delta(learner, theta, striped_task())
    assert not any(leaf.requires_grad for leaf in delta.values())
    assert all(leaf.grad is None for leaf in theta.values())


@every_learner
def test_the_same_generator_gives_the_same_bits_and_theta_is_as_it_was(
    learner: LearnerSettings,
) -> None:
    theta, task = initial_parameters(MODEL, learner, seed=1), striped_task()
    before = {name: leaf.clone() for name, leaf in theta.items()}
    one, other = (local_delta(learner, theta, task) for _ in range(2))
    third = local_delta(learner, theta, task, seed=4)
    assert all(torch.equal(one[name], other[name]) for name in theta)
    assert not all(torch.equal(one[name], third[name]) for name in theta)
    for name, leaf in theta.items():
        assert torch.equal(leaf, before[name])
        assert not leaf.requires_grad


def mean_loss(learner: LearnerSettings, theta: Tensors) -> float:
    """Return the query loss at a site that adapts, over episodes that are always the same."""
    body, task, losses = build_body(MODEL, 1), striped_task(), []
    rng = np.random.default_rng(8)
    for _ in range(8):
        episode = sample_episode(task, n_way=3, n_shot=2, n_query=4, rng=rng)
        logits = build_learner(learner).adapt(body, theta, episode.support)(episode.query.images)
        losses.append(float(F.cross_entropy(logits, episode.query.labels)))
    return float(np.mean(losses))


@pytest.mark.parametrize("learner", QUICK, ids=lambda learner: learner.name)
def test_a_few_rounds_make_it_better_at_adapting(learner: LearnerSettings) -> None:
    theta = initial_parameters(MODEL, learner, seed=1)
    before = mean_loss(learner, theta)
    size = 1.0 if learner.DELTA == "difference" else 0.05
    for index in range(4):
        delta = local_delta(learner, theta, striped_task(), seed=index)
        theta = {name: leaf + size * delta[name] for name, leaf in theta.items()}
    assert mean_loss(learner, theta) < before / 2


WITHOUT_ORDER = [learner for learner in LEARNERS if learner.name != "mann"]
"""A memory-augmented network reads a sequence, and learns what each of its slots means."""


@pytest.mark.parametrize("learner", WITHOUT_ORDER, ids=lambda learner: learner.name)
@settings(max_examples=5)
@given(new_number=st.permutations(range(WAYS)), order=st.permutations(range(WAYS * SHOTS)))
def test_numbering_the_classes_anew_renumbers_the_answers_and_nothing_else(
    learner: LearnerSettings, new_number: list[int], order: list[int]
) -> None:
    (body, _), theta, episode = conv_body(), float64_theta(learner), random_episode()
    adapt = build_learner(learner).adapt
    logits = adapt(body, theta, episode.support)(episode.query.images)
    other = rearranged(episode.support, new_number, order)
    renumbered = adapt(body, theta, other)(episode.query.images)
    torch.testing.assert_close(renumbered[:, new_number], logits, rtol=1e-7, atol=1e-9)


@every_learner
def test_an_answer_depends_on_no_other_query(learner: LearnerSettings) -> None:
    (body, _), theta, episode = conv_body(), float64_theta(learner), random_episode()
    classify = build_learner(learner).adapt(body, theta, episode.support)
    images = episode.query.images
    together = classify(images)
    torch.testing.assert_close(classify(images.flip(0)).flip(0), together, rtol=1e-7, atol=1e-9)
    alone = torch.cat([classify(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-7, atol=1e-9)


@every_learner
def test_a_class_without_an_image_is_a_sentence_and_not_answers_that_are_no_numbers(
    learner: LearnerSettings,
) -> None:
    (body, _), theta, episode = conv_body(), float64_theta(learner), random_episode()
    whole = episode.support
    kept = whole.labels != 1
    with_a_gap = Examples(whole.images[kept], whole.labels[kept], whole.n_way)
    found = rf"without an image of 1 of its {WAYS} classes \(label 1\); expected an image of each"
    with pytest.raises(DataError, match=found):
        build_learner(learner).adapt(body, theta, with_a_gap)


@every_learner
def test_adapting_leaves_theta_as_it_was_and_tracks_no_gradients(learner: LearnerSettings) -> None:
    (body, _), theta, episode = conv_body(), float64_theta(learner), random_episode()
    before = {name: leaf.clone() for name, leaf in theta.items()}
    classify = build_learner(learner).adapt(body, theta, episode.support)
    assert not classify(episode.query.images).requires_grad
    for name, leaf in theta.items():
        assert torch.equal(leaf, before[name])
        assert not leaf.requires_grad


@pytest.mark.parametrize(
    "learner",
    [*LEARNERS, PrototypicalSettings(distance="cosine", **EPISODES)],
    ids=lambda learner: learner.name,
)
def test_what_a_classifier_keeps_makes_it_anew_and_holds_no_image(
    learner: LearnerSettings,
) -> None:
    built, body = build_learner(learner), build_body(MODEL, 1)
    theta, task = initial_parameters(MODEL, learner, seed=1), striped_task()
    episode = sample_episode(task, n_way=3, n_shot=2, n_query=4, rng=np.random.default_rng(8))
    classify = built.adapt(body, theta, episode.support)
    stored = to_tensors(to_arrays(classify.kept))
    again = built.classifier(body, theta, stored)
    assert torch.equal(again(episode.query.images), classify(episode.query.images))
    pixels = {image.tobytes() for image in episode.support.images.numpy()}
    rows = [row for leaf in classify.kept.values() for row in leaf.numpy().reshape(len(leaf), -1)]
    assert pixels.isdisjoint(row.tobytes() for row in rows)


def equal(one: Arrays, other: Arrays) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[k], other[k]) for k in one)


@every_learner
def test_what_it_learned_travels_is_stored_and_adapts_at_a_new_site(
    learner: LearnerSettings, tmp_path: Path
) -> None:
    study = Study(model=MODEL, learner=learner, seed=1)
    theta = initial_parameters(MODEL, learner, seed=1)
    spec = expected_shapes(MODEL, learner)
    order = encode_order(RoundOrder(study, 0, to_arrays(theta)))
    asked = decode_order(order, lambda asked: expected_shapes(asked.model, asked.learner))
    assert equal(asked.theta, to_arrays(theta))
    assert spec_of(asked.theta) == spec
    delta = to_arrays(local_delta(learner, to_tensors(asked.theta), striped_task()))
    sent = decode_update(encode_update(Update(study.digest(), 0, delta)), spec)
    assert equal(sent.delta, delta)
    assert equal(decode_reply(encode_reply(delta), asked.theta), delta)

    mean = aggregate(study.aggregation, [sent.delta])
    state = initial_state(study.outer, asked.theta)
    learned, _ = outer_step(study.outer, state, asked.theta, mean)
    save_model(tmp_path / "model", ModelCard.of_study(study, PrivacyStatement()), learned)
    loaded = load_model(tmp_path / "model")
    support = sample_episode(
        striped_task(), n_way=3, n_shot=2, n_query=1, rng=np.random.default_rng(0)
    ).support
    here, there = (
        build_learner(settings).adapt(build_body(MODEL, 7), to_tensors(held), support)
        for settings, held in ((learner, learned), (loaded.card.learner, loaded.theta))
    )
    assert torch.equal(here(support.images), there(support.images))


@every_learner
def test_block_release_noises_all_that_it_learns(learner: LearnerSettings) -> None:
    small = learner.model_copy(
        update={"n_way": 2, "n_shot": 1, "n_query": 1}
        if "n_shot" in type(learner).model_fields
        else {}
    )
    theta = initial_parameters(MODEL, small, seed=1)
    released = released_by(small, theta)
    assert spec_of(released(0.0)) == spec_of(to_arrays(theta))
    with_noise = released(1.0)
    norm = math.sqrt(sum(float(np.square(leaf).sum()) for leaf in released(0.0).values()))
    assert 0 < norm <= 1.0 + 1e-6  # two blocks of a clipped norm of 0.5, over a divisor of 1
    assert all(np.isfinite(leaf).all() and leaf.all() for leaf in with_noise.values())


def released_by(learner: LearnerSettings, theta: Tensors) -> Callable[[float], Arrays]:
    def release(scale: float) -> Arrays:
        terms = Terms("block", 1.0, 0.5, 1, 0.5, divisor=1.0)
        sums = NoisedSums(terms, KnownSource(scale=scale), 0.5)
        return block_release(
            build_body(MODEL, 1), theta, twelve_patients(), build_learner(learner), sums,
            blocks=2, block_key=b"a key of the site, of 32 bytes..", seed=(1, 2, 3),
        )  # fmt: skip

    return release
