"""Matching networks: by hand, against plain loops, and what the order of the support set does."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.errors import ConfigError
from metaward.learner_settings import MatchingSettings, PrototypicalSettings
from metaward.meta import matching
from metaward.meta.compose import build_learner, initial_parameters
from metaward.meta.full_context import embedded, in_canonical_order
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.theta import own_leaves
from metric_cases import (
    MODEL,
    SHOTS,
    WAYS,
    PixelBody,
    assert_minus_gradient,
    at,
    bars,
    episode_of,
    examples,
    float64_theta,
    random_episode,
    reordered,
)

PLAIN = MatchingSettings(temperature=0.5)
CONTEXT = MatchingSettings(temperature=0.5, full_context=True, processing_steps=3)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_attention_is_shared_out_as_worked_by_hand() -> None:
    # Cosines of the query (1, 0) to the support: 1, 0 (class 0) and 0.6 (class 1).
    support = examples([[2, 0], [0, 3], [6, 8]], [0, 0, 1], 2)
    classify = build_learner(PLAIN).adapt(PixelBody(channels=2), at(1.0), support)
    p = torch.softmax(classify(examples([[1, 0]], [0], 2).images), dim=1)[0]
    votes = [math.exp(c / 0.5) for c in (1.0, 0.0, 0.6)]
    assert float(p[0]) == pytest.approx((votes[0] + votes[1]) / sum(votes), rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2), max_size=5))
@settings(max_examples=30)
def test_answers_are_those_of_a_double_loop(seed: int, more: list[int]) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0, 1, 2, *more]).tolist()
    features, asked = rng.normal(size=(len(labels), 4)), rng.normal(size=4)
    attention = []
    for feature in features:
        cosine = feature @ asked / math.sqrt(feature @ feature) / math.sqrt(asked @ asked)
        attention.append(math.exp(cosine / 0.5))
    p = [0.0, 0.0, 0.0]
    for share, label in zip(attention, labels, strict=True):
        p[label] += share / sum(attention)
    support = examples(features.tolist(), labels, 3)
    classify = build_learner(PLAIN).adapt(PixelBody(channels=4), at(1.0), support)
    ours = torch.softmax(classify(examples([asked.tolist()], [0], 3).images), dim=1)[0]
    np.testing.assert_allclose(ours.numpy(), p, rtol=1e-9)


def test_a_class_that_gets_no_attention_costs_a_finite_loss() -> None:
    """log(softmax . one-hot) would be log(0): e^-2000 is 0 in any float."""
    sharp = MatchingSettings(temperature=1.0e-3)
    support = examples([[1, 0], [-1, 0]], [0, 1], 2)
    episode = episode_of(support, examples([[1, 0]], [1], 2))
    result = matching.task_delta(PixelBody(channels=2), at(1.0), episode, sharp)
    assert result.loss == pytest.approx(2000.0, rel=1e-9)
    assert torch.isfinite(result.delta["w"])


def test_with_one_image_per_class_it_is_a_prototypical_network_with_cosines() -> None:
    (body, theta), episode = float64_theta(PLAIN), random_episode(shots=1)
    cosine = PrototypicalSettings(distance="cosine", temperature=0.5)
    ours, theirs = (
        build_learner(learner).adapt(body, theta, episode.support)(episode.query.images)
        for learner in (PLAIN, cosine)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def lstm(
    x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, own: Tensors, name: str, end: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step, in torch's layout of the gates: input, forget, cell, output."""
    leaves = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_x, w_h, b_x, b_h = (own[f"{name}.{leaf}{end}"] for leaf in leaves)
    i, f, g, o = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def read_in_turn(features: list[torch.Tensor], own: Tensors, end: str) -> list[torch.Tensor]:
    h = c = torch.zeros_like(features[0])
    out = []
    for feature in features:
        h, c = lstm(feature, h, c, own, "over_support", f"_l0{end}")
        out.append(h)
    return out


def written_out(
    own: Tensors, support: torch.Tensor, query: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The equations of the appendix, one image at a time."""
    images = list(support)
    forward = read_in_turn(images, own, "")
    backward = read_in_turn(images[::-1], own, "_reverse")[::-1]
    g = [f + b + x for f, b, x in zip(forward, backward, images, strict=True)]
    embeddings = []
    for x in query:
        h = c = torch.zeros_like(x)
        for _ in range(steps):
            weights = torch.stack([h @ s / math.sqrt(len(x)) for s in g]).exp()
            r = sum((w / weights.sum() * s for w, s in zip(weights, g, strict=True)), h * 0)
            o, c = lstm(torch.cat([x, r]), h, c, own, "read", "")
            h = o + x
        embeddings.append(h)
    return torch.stack(g), torch.stack(embeddings)


def test_full_context_is_the_appendix_written_out() -> None:
    _, theta = float64_theta(CONTEXT)
    own = own_leaves(theta)
    generator = torch.Generator().manual_seed(2)
    d = MODEL.filters
    support, query = (torch.randn(n, d, generator=generator, dtype=torch.float64) for n in (5, 3))
    for ours, theirs in zip(
        embedded(own, support, query, 3), written_out(own, support, query, 3), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_delta_of_full_context_is_minus_the_gradient_of_the_papers_formula() -> None:
    (body, theta), episode = float64_theta(CONTEXT), random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    support = in_canonical_order(episode.support)
    g, f = written_out(
        own_leaves(leaves),
        body.apply_with(leaves, support.images),
        body.apply_with(leaves, episode.query.images),
        CONTEXT.processing_steps,
    )
    attention = torch.cosine_similarity(f[:, None], g[None], dim=2).div(0.5).softmax(dim=1)
    p = [
        sum(a for a, seen in zip(row, support.labels, strict=True) if seen == label)
        for row, label in zip(attention, episode.query.labels, strict=True)
    ]
    loss = -torch.stack([torch.as_tensor(share) for share in p]).log().mean()
    assert_minus_gradient(matching.task_delta(body, theta, episode, CONTEXT), leaves, loss)


def test_the_context_counts_and_the_order_in_which_it_is_read_would() -> None:
    """What the canonical order is for: without it, equal supports would give unequal answers."""
    body, theta = float64_theta(CONTEXT)
    episode = random_episode()
    seen, asked = (
        body.apply_with(theta, part.images).detach() for part in (episode.support, episode.query)
    )
    own = own_leaves(theta)
    g, f = embedded(own, seen, asked, 2)
    turned_g, turned_f = embedded(own, seen.flip(0), asked, 2)
    assert not torch.allclose(turned_g.flip(0), g, atol=1e-3)
    assert not torch.allclose(turned_f, f, atol=1e-6)
    others = torch.cat([seen[:3], seen[:3] + 1.0])
    assert not torch.allclose(embedded(own, others, asked, 2)[0][:3], g[:3], atol=1e-3)


@given(st.permutations(range(36)))
@settings(max_examples=10)
def test_a_site_may_store_its_files_in_any_order(order: list[int]) -> None:
    """The images come from a task, standardised in a batch of another order."""
    task = bars()
    rows = np.asarray(order)
    labels = torch.from_numpy(task.labels)
    one = in_canonical_order(Examples(task.take(np.arange(36)), labels, 3))
    same = in_canonical_order(Examples(task.take(rows), labels[rows], 3))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, labels)  # and it does not go by class


@given(st.permutations(range(WAYS * SHOTS)))
@settings(max_examples=5)
def test_answers_in_full_context_are_the_same_bits_for_any_order(order: list[int]) -> None:
    body, theta = float32_theta(CONTEXT)
    episode = random_episode()
    support = Examples(episode.support.images.float(), episode.support.labels, WAYS)
    images = episode.query.images.float()
    one, same = (
        build_learner(CONTEXT).adapt(body, theta, given)(images)
        for given in (support, reordered(support, order))
    )
    assert torch.equal(one, same)


def float32_theta(learner: MatchingSettings) -> tuple[Body, Tensors]:
    body, theta = float64_theta(learner)
    return body.float(), {name: leaf.float() for name, leaf in theta.items()}


def test_networks_that_would_fill_the_memory_are_refused_in_words() -> None:
    large = ModelSettings(filters=64, image_size=128)
    with pytest.raises(ConfigError, match=r"full_context with 4,096 features; expected at most"):
        initial_parameters(large, CONTEXT, 0)
    assert len(initial_parameters(large, PLAIN, 0)) > 0
