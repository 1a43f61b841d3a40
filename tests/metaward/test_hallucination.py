"""Generated features: none of them, by hand, what must not matter, and what is learned."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallucination_cases import (
    BODY,
    DISCRIMINATOR,
    GENERATOR,
    MODEL,
    SHOTS,
    SMALL,
    WAYS,
    random_episode,
    random_noise,
    task,
    theta_of,
)
from metaward import wire, wire_arrays
from metaward.arrays import Tensors, to_arrays, to_tensors
from metaward.episodes import Episode, Examples, sample_episode
from metaward.errors import ConfigError
from metaward.learner_settings import HallucinationSettings, PrototypicalSettings
from metaward.meta import hallucination, prototypical
from metaward.meta.compose import build_learner, build_noised_learner, initial_parameters
from metaward.model_artefact import ModelCard, load_model, save_model
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.privacy_statement import PrivacyStatement
from metaward.study import Study

pytestmark = pytest.mark.usefixtures("one_thread")


# --- nothing generated ----------------------------------------------------------------------------


def test_with_nothing_generated_it_is_a_prototypical_network_bit_for_bit() -> None:
    common = {"n_way": 3, "n_shot": 2, "n_query": 2}
    nothing = build_learner(HallucinationSettings(n_generated=0, adversarial_weight=0.7, **common))
    plain = build_learner(PrototypicalSettings(**common))
    body = build_body(MODEL, 1)
    theta = body.initial_parameters()
    assert nothing.own_parameters(body, 1) == {}
    ours, theirs = (
        learner.local_delta(body, theta, task(), np.random.default_rng(0))
        for learner in (nothing, plain)
    )
    assert ours.loss == theirs.loss
    assert list(ours.delta) == list(theta)
    episode = sample_episode(task(), **common, rng=np.random.default_rng(0))
    logits = [
        learner.adapt(body, theta, episode.support)(episode.query.images)
        for learner in (nothing, plain)
    ]
    assert torch.equal(*logits)
    for name in theta:
        assert torch.equal(ours.delta[name], theirs.delta[name])


def test_without_weight_there_is_no_discriminator() -> None:
    alone = SMALL.model_copy(update={"adversarial_weight": 0.0})
    own = build_learner(alone).own_parameters(BODY, 0)
    assert own
    assert all(name.startswith(GENERATOR) for name in own)
    assert any(n.startswith(DISCRIMINATOR) for n in build_learner(SMALL).own_parameters(BODY, 0))


def test_at_the_start_the_generator_copies() -> None:
    """So that a study begins as a prototypical network, up to rounding."""
    episode = random_episode()
    own = {
        name: leaf.double() for name, leaf in build_learner(SMALL).own_parameters(BODY, 3).items()
    }
    theta = BODY.initial_parameters() | own
    result = hallucination.task_delta(BODY, theta, episode, random_noise(), SMALL)
    plain = prototypical.task_delta(BODY, BODY.initial_parameters(), episode)
    assert result.loss == pytest.approx(plain.loss, rel=1e-12)


# --- by hand --------------------------------------------------------------------------------------


def test_prototypes_of_real_and_generated_features_are_those_worked_by_hand() -> None:
    # Class 0 has 1 and 3, class 1 has 5. Two noises; of 1 they make 2 and 4, of 3 8 and 6, of 5 7
    # and 9. On average over the image that each starts from: (2 + 8)/2 = 5 and (4 + 6)/2 = 5.
    # Prototypes (1 + 3 + 5 + 5)/4 = 3.5 and (5 + 7 + 9)/3 = 7; a head has 2 c and - c^2.
    real = torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.float64)
    made = torch.tensor([[[2.0], [4.0]], [[8.0], [6.0]], [[7.0], [9.0]]], dtype=torch.float64)
    support = Examples(torch.zeros(3, 1, 1, 1), torch.tensor([0, 0, 1]), 2)
    head = hallucination.hallucinated_head(real, made, support)
    assert head.weight.flatten().tolist() == pytest.approx([7.0, 14.0], rel=1e-12)
    assert head.bias.tolist() == pytest.approx([-(3.5**2), -49.0], rel=1e-12)


# --- what must not matter -------------------------------------------------------------------------


@settings(max_examples=15)
@given(new_number=st.permutations(range(WAYS)), order=st.permutations(range(WAYS * SHOTS)))
def test_neither_the_numbers_of_the_classes_nor_the_order_of_images_change_the_delta(
    new_number: list[int], order: list[int]
) -> None:
    theta, episode, noise = theta_of(), random_episode(), random_noise()

    def other(side: Examples) -> Examples:
        labels = torch.tensor(new_number)[side.labels]
        return Examples(side.images[torch.tensor(order)], labels[torch.tensor(order)], WAYS)

    changed = Episode(other(episode.support), other(episode.query))
    one, same = (hallucination.task_delta(BODY, theta, e, noise, SMALL) for e in (episode, changed))
    assert same.loss == pytest.approx(one.loss, rel=1e-9)
    for name in theta:
        torch.testing.assert_close(same.delta[name], one.delta[name], rtol=1e-7, atol=1e-10)
    adapt = build_learner(SMALL).adapt
    images = episode.query.images
    logits = adapt(BODY, theta, episode.support)(images)
    renumbered = adapt(BODY, theta, changed.support)(images)
    torch.testing.assert_close(renumbered[:, new_number], logits, rtol=1e-7, atol=1e-9)


def test_the_same_support_gives_the_same_classifier_and_no_answer_depends_on_another() -> None:
    theta, episode = theta_of(), random_episode()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, again = (build_learner(SMALL).adapt(BODY, theta, episode.support) for _ in "ab")
    images = episode.query.images
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(images), again(images))
    assert not one(images).requires_grad
    alone = torch.cat([one(image[None]) for image in images])
    torch.testing.assert_close(alone, one(images), rtol=1e-9, atol=1e-12)
    plain = build_learner(PrototypicalSettings()).adapt(BODY, theta, episode.support)
    assert not torch.allclose(one(images), plain(images))


def test_the_episodes_are_the_same_whatever_is_generated() -> None:
    body, seen = build_body(MODEL, 1), []
    for n_generated in (0, 3):
        s = SMALL.model_copy(update={"n_generated": n_generated})
        theta = initial_parameters(MODEL, s, 1)  # the generator copies
        seen.append(
            build_learner(s).local_delta(body, theta, task(), np.random.default_rng(4)).loss
        )
    assert seen[1] == pytest.approx(seen[0], rel=1e-5)


# --- the learner ----------------------------------------------------------------------------------


def test_it_learns_and_the_same_generator_gives_the_same_bits() -> None:
    body, learner = build_body(MODEL, 1), build_learner(SMALL)
    start = initial_parameters(MODEL, SMALL, 1)

    def trained() -> Tensors:
        theta = {name: leaf.clone() for name, leaf in start.items()}
        optimiser = torch.optim.Adam(theta.values(), lr=5e-3)
        site, rng = task(), np.random.default_rng(0)
        for _ in range(25):
            delta = learner.local_delta(body, theta, site, rng).delta
            for name, leaf in theta.items():
                leaf.grad = -delta[name]
            optimiser.step()
        return theta

    theta, again = trained(), trained()
    assert all(torch.equal(theta[name], again[name]) for name in theta)
    before, after = (accuracy(body, point) for point in (start, theta))
    assert after > before + 0.1
    assert not torch.equal(theta[GENERATOR + "second.weight"], start[GENERATOR + "second.weight"])


def accuracy(body: Body, theta: Tensors) -> float:
    rng, right = np.random.default_rng(3), []
    for _ in range(30):
        episode = sample_episode(task(seed=8), n_way=4, n_shot=1, n_query=3, rng=rng)
        logits = build_learner(SMALL).adapt(body, theta, episode.support)(episode.query.images)
        right.append((logits.argmax(1) == episode.query.labels).double().mean())
    return float(torch.stack(right).mean())


def test_its_leaves_cross_the_wire_and_adapt_from_a_stored_model(tmp_path: Path) -> None:
    theta = to_arrays(initial_parameters(MODEL, SMALL, 4))
    study = Study(model=MODEL, learner=SMALL, seed=4)
    order = wire.encode_order(wire.RoundOrder(study, 0, theta))
    arrived = wire.decode_order(order, lambda _: wire_arrays.spec_of(theta)).theta
    save_model(tmp_path / "m", ModelCard.of_study(study, PrivacyStatement()), theta)
    loaded = load_model(tmp_path / "m")
    assert loaded.card.learner == SMALL
    site, body = task(), build_body(MODEL, 0)
    episode = sample_episode(site, n_way=3, n_shot=2, n_query=2, rng=np.random.default_rng(1))
    adapt = build_learner(SMALL).adapt
    expected = adapt(body, to_tensors(theta), episode.support)(episode.query.images)
    for found in (arrived, loaded.theta):
        classify = adapt(body, to_tensors(found), episode.support)
        assert torch.equal(classify(episode.query.images), expected)


def test_it_has_no_noised_form_and_says_what_to_take_in_its_place() -> None:
    with pytest.raises(ConfigError, match=r"learner hallucination with.*mechanism block"):
        build_noised_learner(SMALL, 2)
