"""The memory-augmented learner at a site: what it learns, refuses and sends, and its measure."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mann_cases import BODY, SMALL, random_sequence, theta_of
from metaward import wire, wire_arrays
from metaward.arrays import Tensors, to_arrays, to_tensors
from metaward.episodes import Episode, Examples, sample_episode
from metaward.errors import ConfigError, DataError
from metaward.learner_settings import MannSettings
from metaward.meta import mann
from metaward.meta.compose import build_learner, build_noised_learner, initial_parameters
from metaward.meta.presentations import accuracy_by_presentation, presentation_of
from metaward.model_artefact import ModelCard, load_model, save_model
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.privacy_statement import PrivacyStatement
from metaward.study import Study
from metaward.tasks import Task
from metaward.theta import OWN

MODEL = ModelSettings(image_size=16, filters=8, groups=2)

pytestmark = pytest.mark.usefixtures("one_thread")


def task(n_labels: int = 3, per_label: int = 8, seed: int = 0) -> Task:
    """Return a task whose labels are where a bright bar stands; one image per patient."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_labels), per_label)
    images = (rng.normal(size=(len(labels), 1, 16, 16)) * 0.05 + 0.3).astype(np.float32)
    for index, label in enumerate(labels):
        images[index, 0, 4 * label : 4 * label + 4] += 0.5
    names = tuple("abcd"[:n_labels])
    return Task("north", images, labels, np.arange(len(labels)), names)


# --- the learner ----------------------------------------------------------------------------------


def test_a_site_reads_each_support_in_an_order_drawn_by_its_own_generator() -> None:
    labels = torch.arange(3).repeat_interleave(2)
    side = Examples(torch.arange(6.0).view(6, 1, 1, 1), labels, 3)
    episode = Episode(side, side)
    drawn = [mann.in_random_order(episode, np.random.default_rng(seed)) for seed in range(8)]
    for one in drawn:
        assert sorted(one.support.images.flatten().tolist()) == list(range(6))
        assert torch.equal(one.support.labels, (one.support.images.flatten() / 2).long())
        assert one.query is side
    assert len({tuple(one.support.images.flatten().tolist()) for one in drawn}) == 8
    again = mann.in_random_order(episode, np.random.default_rng(0))
    assert torch.equal(again.support.images, drawn[0].support.images)


def test_more_classes_than_slots_are_refused_and_fewer_are_not() -> None:
    learner = build_learner(SMALL)
    four = random_sequence((0, 1, 2, 0))
    with pytest.raises(DataError, match="a support set of 4 classes; expected at most 3") as caught:
        learner.adapt(BODY, theta_of(), Examples(four.images, torch.arange(4), 4))
    assert "Choose fewer classes" in str(caught.value)
    two = Examples(four.images, torch.tensor([0, 1, 1, 0]), 2)
    assert learner.adapt(BODY, theta_of(), two)(four.images).shape == (4, 2)


def test_a_site_with_fewer_labels_than_slots_and_one_with_more_both_give_a_delta() -> None:
    body, learner = build_body(MODEL, 1), build_learner(SMALL)
    theta = initial_parameters(MODEL, SMALL, 1)
    for n_labels in (2, 4):
        rng = np.random.default_rng(0)
        result = learner.local_delta(body, theta, task(n_labels), rng)
        assert math.isfinite(result.loss)
        assert list(result.delta) == list(theta)


def test_a_site_draws_supports_of_one_image_of_a_class_up_to_n_shot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of a round are as long, since they are read side by side."""
    body, learner = build_body(MODEL, 1), build_learner(SMALL.model_copy(update={"n_shot": 3}))
    theta, lengths = initial_parameters(MODEL, SMALL, 1), []

    def noted(body: Body, theta: Tensors, episodes: list[Episode], settings: MannSettings) -> None:
        [length] = {len(episode.support.labels) for episode in episodes}
        assert {episode.support.n_way for episode in episodes} == {3}
        lengths.append(length)

    monkeypatch.setattr(mann, "task_delta", noted)
    for seed in range(90):
        learner.local_delta(body, theta, task(), np.random.default_rng(seed))
    assert set(lengths) == {3, 6, 9}
    assert min(map(lengths.count, (3, 6, 9))) > 15  # 30 each are expected


def test_more_heads_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"read_heads \(3\) must be at most memory_rows \(2\)"):
        MannSettings(read_heads=3, memory_rows=2)


def test_it_has_no_noised_form_and_says_what_to_take_in_its_place() -> None:
    with pytest.raises(ConfigError, match=r"learner mann with mechanism dp-sgd.*mechanism block"):
        build_noised_learner(SMALL, 2)


LEARNING = MannSettings(
    n_way=2, n_shot=1, n_query=2, episodes=24, augment="none",
    hidden=16, memory_rows=8, memory_width=8, read_heads=1, body_weight=0.0,
)  # fmt: skip


def query_accuracy(body: Body, theta: Tensors) -> float:
    learner, rng, right = build_learner(LEARNING), np.random.default_rng(6), []
    for _ in range(30):
        episode = sample_episode(task(4, seed=8), n_way=2, n_shot=1, n_query=3, rng=rng)
        logits = learner.adapt(body, theta, episode.support)(episode.query.images)
        right.append((logits.argmax(1) == episode.query.labels).double().mean())
    return float(torch.stack(right).mean())


def test_it_learns_to_bind_labels_to_what_it_sees() -> None:
    """Chance is 1/2, and counting, which a support of one image each rewards, gives no more."""
    body, learner = build_body(MODEL, 1), build_learner(LEARNING)
    start = initial_parameters(MODEL, LEARNING, 1)
    theta = {name: leaf.clone() for name, leaf in start.items()}
    optimiser = torch.optim.Adam(theta.values(), lr=1e-2)
    site, rng, losses = task(4), np.random.default_rng(0), []
    for _ in range(70):
        result = learner.local_delta(body, theta, site, rng)
        losses.append(result.loss)
        for name, leaf in theta.items():
            leaf.grad = -result.delta[name]
        optimiser.step()
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert query_accuracy(body, theta) > query_accuracy(body, start) + 0.15
    # The order of a support set matters little, and not nothing: docs/algorithms.md says how much.
    assert 0.02 < disagreement_of_two_orders(body, theta) < 0.3


def disagreement_of_two_orders(body: Body, theta: Tensors) -> float:
    """Return the share of answers that change with the order of a support of 2 images a class."""
    rng, differ = np.random.default_rng(9), []
    for _ in range(30):
        episode = sample_episode(task(4, seed=8), n_way=2, n_shot=2, n_query=3, rng=rng)
        named = []
        for _ in range(2):
            support = mann.in_random_order(episode, rng).support
            with torch.no_grad():
                _, read = mann.read_sequences(body, theta, [support], LEARNING)
                logits = mann.name_next(body, theta, read, episode.query.images[None], LEARNING)
            named.append(logits[0].argmax(1))
        differ.append((named[0] != named[1]).double().mean())
    return float(torch.stack(differ).mean())


def test_theta_plus_a_little_of_the_delta_has_a_lower_loss() -> None:
    body, theta = build_body(MODEL, 1), initial_parameters(MODEL, SMALL, 1)
    before = {name: leaf.clone() for name, leaf in theta.items()}
    learner = build_learner(SMALL)
    one, again = (learner.local_delta(body, theta, task(), np.random.default_rng(3)) for _ in "ab")
    assert one.loss == again.loss
    assert all(torch.equal(one.delta[name], again.delta[name]) for name in theta)
    norm = math.sqrt(sum(float(leaf.square().sum()) for leaf in one.delta.values()))
    moved = {name: leaf + 0.05 / norm * one.delta[name] for name, leaf in theta.items()}
    assert learner.local_delta(body, moved, task(), np.random.default_rng(3)).loss < one.loss
    for name, leaf in theta.items():
        assert torch.equal(leaf, before[name])
        assert not leaf.requires_grad


def test_its_leaves_depend_on_settings_form_and_seed_and_on_no_draw_before() -> None:
    one = initial_parameters(MODEL, SMALL, 4)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    same = initial_parameters(MODEL, SMALL, 4)
    torch.set_rng_state(state)
    other = initial_parameters(MODEL, SMALL, 5)
    assert any(name.startswith(OWN) for name in one)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one[OWN + "key.weight"], other[OWN + "key.weight"])
    build_learner(SMALL).adapt(build_body(MODEL, 4), one, as_support(task()))
    assert torch.equal(torch.get_rng_state(), state)


def as_support(site: Task, n: int = 6) -> Examples:
    rows = np.arange(0, len(site.labels), len(site.labels) // n)[:n]
    return Examples(site.take(rows), torch.from_numpy(site.labels[rows]), len(site.label_names))


def test_its_leaves_cross_the_wire_and_adapt_from_a_stored_model(tmp_path: Path) -> None:
    theta = to_arrays(initial_parameters(MODEL, SMALL, 4))
    study = Study(model=MODEL, learner=SMALL, seed=4)
    order = wire.encode_order(wire.RoundOrder(study, 0, theta))
    arrived = wire.decode_order(order, lambda _: wire_arrays.spec_of(theta)).theta
    save_model(tmp_path / "m", ModelCard.of_study(study, PrivacyStatement()), theta)
    loaded = load_model(tmp_path / "m")
    assert loaded.card.learner == SMALL
    support, body = as_support(task()), build_body(MODEL, 0)
    adapt = build_learner(SMALL).adapt
    expected = adapt(body, to_tensors(theta), support)(support.images)
    for found in (arrived, loaded.theta):
        assert torch.equal(adapt(body, to_tensors(found), support)(support.images), expected)


# --- the measure ----------------------------------------------------------------------------------


def test_accuracy_by_presentation_counts_each_class_from_its_first_image() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1])
    assert presentation_of(labels).tolist() == [1, 1, 2, 2, 3]
    named = F.one_hot(
        torch.tensor([1, 1, 0, 1, 0]), 2
    ).double()  # wrong, right, right, right, wrong
    other = (F.one_hot(torch.tensor([0, 0]), 2).double(), torch.tensor([0, 0]))
    assert accuracy_by_presentation([(named, labels), other]) == (2 / 3, 1.0, 0.0)
