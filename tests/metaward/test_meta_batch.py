"""Tasks side by side give what they give one after the other."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import (
    FomamlSettings,
    MamlSettings,
    PrototypicalSettings,
    ReptileSettings,
)
from metaward.meta import fomaml, maml, prototypical, reptile
from metaward.meta.learner import LocalResult, mean_result
from metaward.meta.meta_batch import fastest_at_once, mean_over_episodes, mean_over_tasks
from metaward.model_settings import ModelSettings
from metaward.models import body as bodies
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.models.conv4 import Conv4

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {
    "stride": ModelSettings(image_size=16, filters=8, groups=2),
    "pool": ModelSettings(image_size=32, filters=4, groups=1, downsample="pool"),
    "two halved": ModelSettings(image_size=16, filters=4, groups=2, downsampled_blocks=2),
    "two pooled": ModelSettings(
        image_size=16, filters=4, groups=2, downsample="pool", downsampled_blocks=2
    ),
    "colour": ModelSettings(image_size=16, filters=8, groups=2, channels=3),
    "resnet": ModelSettings(name="resnet", image_size=16, filters=4, groups=2),
}
N_WAY = 3

EpisodeDelta = Callable[[Body, Tensors, Episode], LocalResult]


def by(work: Any, chosen: Any) -> EpisodeDelta:  # Any: a learner's task_delta and its settings
    return lambda body, theta, episode: work(body, theta, episode, chosen)


def by_reptile(body: Body, theta: Tensors, episode: Episode) -> LocalResult:
    chosen = ReptileSettings(inner_lr=0.3)
    return reptile.moved(body, theta, episode.support, [episode.support, episode.query], chosen)


LEARNERS: dict[str, EpisodeDelta] = {
    "fomaml": by(fomaml.task_delta, FomamlSettings(inner_steps=2, inner_lr=0.3)),
    "fomaml, zeros": by(
        fomaml.task_delta, FomamlSettings(inner_steps=2, inner_lr=0.3, adapt={"head": "zeros"})
    ),
    "maml": by(maml.task_delta, MamlSettings(inner_steps=2, inner_lr=0.3)),
    "maml, zeros": by(
        maml.task_delta, MamlSettings(inner_steps=2, inner_lr=0.3, adapt={"head": "zeros"})
    ),
    "maml, checkpoint": by(
        maml.task_delta, MamlSettings(inner_steps=2, inner_lr=0.3, checkpoint=True)
    ),
    "reptile": by_reptile,
}
SHARED: dict[str, EpisodeDelta] = {
    "prototypical": by(prototypical.task_delta, PrototypicalSettings()),
    "cosine": by(prototypical.task_delta, PrototypicalSettings(distance="cosine")),
    "margin": by(prototypical.task_delta, PrototypicalSettings(loss="margin")),
}


def body_of(name: str) -> Body:
    return build_body(MODELS[name], seed=3).double()


def drawn(
    name: str, n_tasks: int, n_shot: int = 1, n_query: int = 2, seed: int = 7, n_way: int = N_WAY
) -> list[Episode]:
    rng, model = np.random.default_rng(seed), MODELS[name]

    def examples(per_class: int) -> Examples:
        labels = torch.from_numpy(rng.permutation(np.repeat(np.arange(n_way), per_class)))
        form = (len(labels), model.channels, model.image_size, model.image_size)
        return Examples(torch.from_numpy(rng.standard_normal(form)), labels, n_way)

    return [Episode(examples(n_shot), examples(n_query)) for _ in range(n_tasks)]


def mean_of(
    work: EpisodeDelta, body: Body, theta: Tensors, episodes: list[Episode], **how: Any
) -> LocalResult:
    return mean_over_episodes(
        body, theta, episodes, lambda leaves, episode: work(body, leaves, episode), **how
    )


def assert_same(one: LocalResult, other: LocalResult) -> None:
    assert one.loss == pytest.approx(other.loss, rel=1e-10)
    assert one.delta.keys() == other.delta.keys()
    for name, leaf in one.delta.items():
        assert leaf.shape == other.delta[name].shape
        torch.testing.assert_close(leaf, other.delta[name], rtol=1e-8, atol=1e-11)
    assert sum(float(leaf.abs().sum()) for leaf in one.delta.values()) > 0


@pytest.fixture(params=["groups", "task by task", "products"])
def way_of_a_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of all tasks by one convolution, by one for each, or as on an accelerator."""
    monkeypatch.setattr(bodies, "SMALL_STEP", 0 if request.param == "task by task" else 10**9)
    if request.param == "products":
        monkeypatch.setattr(Conv4, "apply_side_by_side", Conv4.by_products)


@pytest.mark.usefixtures("way_of_a_step")
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("name", MODELS)
def test_side_by_side_is_the_loop(name: str, learner: str) -> None:
    body, episodes, work = body_of(name), drawn(name, 3), LEARNERS[learner]
    theta = body.initial_parameters()
    loop = mean_result(work(body, theta, episode) for episode in episodes)
    assert_same(loop, mean_of(work, body, theta, episodes, at_once=1))
    assert_same(loop, mean_of(work, body, theta, episodes, at_once=9))
    assert all(not leaf.requires_grad for leaf in theta.values())


@pytest.mark.parametrize("learner", SHARED)
@pytest.mark.parametrize("name", MODELS)
def test_without_an_inner_loop_the_tasks_share_theta(name: str, learner: str) -> None:
    body, episodes, work = body_of(name), drawn(name, 3), SHARED[learner]
    theta = body.initial_parameters()
    loop = mean_result(work(body, theta, episode) for episode in episodes)
    assert_same(loop, mean_of(work, body, theta, episodes, at_once=9, apart=False))


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_task_has_its_own_delta_and_feels_nobody_beside_it(learner: str) -> None:
    body, episodes, work = body_of("stride"), drawn("stride", 3), LEARNERS[learner]
    theta, seen = body.initial_parameters(), {}

    def of(leaves: Tensors, episode: Episode) -> LocalResult:
        seen["together"] = work(body, leaves, episode)
        return seen["together"]

    mean_over_episodes(body, theta, episodes, of, at_once=3)
    for place, episode in enumerate(episodes):
        alone = work(body, theta, episode).delta
        for name, leaf in seen["together"].delta.items():
            torch.testing.assert_close(leaf[place], alone[name], rtol=1e-8, atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 6), st.integers(0, 99))
def test_neither_order_nor_grouping_of_the_tasks_matters(
    order: list[int], at_once: int, seed: int
) -> None:
    body, work = body_of("stride"), LEARNERS["fomaml"]
    theta, episodes = body.initial_parameters(), drawn("stride", 5, seed=seed)
    first = mean_of(work, body, theta, episodes, at_once=5)
    again = mean_of(work, body, theta, [episodes[i] for i in order], at_once=at_once)
    assert_same(first, again)


def test_only_tasks_of_one_size_stand_side_by_side() -> None:
    body, work, together = body_of("stride"), LEARNERS["fomaml"], []
    theta = body.initial_parameters()
    small, large = drawn("stride", 3), drawn("stride", 2, n_shot=2)
    mixed = [*small[:2], *large, small[2]]

    def of(leaves: Tensors, episode: Episode) -> LocalResult:
        together.append(episode.support.n_tasks)
        return work(body, leaves, episode)

    found = mean_over_episodes(body, theta, mixed, of, at_once=9)
    assert together == [2, 2, None]
    assert_same(mean_result(work(body, theta, episode) for episode in mixed), found)


@pytest.mark.parametrize(
    "unlike",
    [
        {"n_shot": 2, "n_query": 4},  # queries
        {"n_shot": 3, "n_query": 3, "n_way": 2},  # classes of as many images in all
    ],
)
def test_tasks_that_differ_in_queries_or_classes_alone_do_not_stand_side_by_side(
    unlike: dict[str, int],
) -> None:
    body, work = body_of("stride"), LEARNERS["fomaml"]
    theta = body.initial_parameters()
    mixed = [*drawn("stride", 2, n_shot=2, n_query=2), *drawn("stride", 2, **unlike)]
    loop = mean_result(work(body, theta, episode) for episode in mixed)
    assert_same(loop, mean_of(work, body, theta, mixed, at_once=9))


def test_as_few_tasks_are_drawn_ahead_as_stand_side_by_side() -> None:
    body, work = body_of("stride"), LEARNERS["fomaml"]
    drawn_so_far, drawn_when_worked_at = [], []

    def one_after_the_other() -> Iterator[Episode]:
        for episode in drawn("stride", 5):
            drawn_so_far.append(episode)
            yield episode

    def of(leaves: Tensors, episode: Episode) -> LocalResult:
        drawn_when_worked_at.append(len(drawn_so_far))
        return work(body, leaves, episode)

    mean_over_episodes(body, body.initial_parameters(), one_after_the_other(), of, at_once=2)
    assert drawn_when_worked_at == [2, 4, 5]


def test_a_task_may_have_any_number_of_examples() -> None:
    body = body_of("stride")
    theta = body.initial_parameters()
    tasks = [(e.support, e.query, e.query) for e in drawn("stride", 3)]
    chosen = ReptileSettings(inner_lr=0.3)

    def of(leaves: Tensors, own: Any) -> LocalResult:
        return reptile.moved(body, leaves, own[0], own[1:], chosen)

    loop = mean_result(of(theta, own) for own in tasks)
    assert_same(loop, mean_over_tasks(body, theta, tasks, of, at_once=2))


def sized(n: int, n_query: int = 5) -> tuple[Examples, Examples]:
    def examples(n: int) -> Examples:
        return Examples(torch.zeros(n, 1, 28, 28), torch.zeros(n, dtype=torch.int64), 5)

    return examples(n), examples(n_query)


@pytest.mark.parametrize(
    ("filters", "n", "n_query", "expected"),
    [(8, 5, 5, 20), (8, 50, 50, 2), (8, 51, 51, 1), (64, 5, 5, 20), (64, 10, 10, 1), (8, 5, 75, 8),
     (8, 5, 700, 1)],
)  # fmt: skip
def test_on_a_cpu_small_steps_stand_side_by_side_as_far_as_cache_and_memory_go(
    filters: int, n: int, n_query: int, expected: int
) -> None:
    body = build_body(ModelSettings(filters=filters), 0)
    assert fastest_at_once(body, body.initial_parameters(), sized(n, n_query)) == expected


@pytest.mark.parametrize(("passes_held", "expected"), [(0, 8), (15, 4), (30, 2), (200, 1)])
def test_the_more_passes_a_learner_holds_the_fewer_tasks_stand_side_by_side(
    passes_held: int, expected: int
) -> None:
    body = build_body(ModelSettings(filters=8), 0)
    theta = body.initial_parameters()
    assert fastest_at_once(body, theta, sized(5, 75), passes_held=passes_held) == expected


def test_on_a_cpu_nothing_stands_side_by_side_that_gains_nothing() -> None:
    resnet = build_body(ModelSettings(name="resnet", filters=8), 0)
    assert fastest_at_once(resnet, resnet.initial_parameters(), sized(5)) == 1
    conv4 = build_body(ModelSettings(filters=8), 0)
    assert fastest_at_once(conv4, conv4.initial_parameters(), sized(5), apart=False) == 1


def test_on_an_accelerator_all_tasks_of_a_meta_batch_stand_side_by_side() -> None:
    body = build_body(ModelSettings(filters=64), 0)
    theta = {name: leaf.to("meta") for name, leaf in body.named_parameters()}
    assert fastest_at_once(body, theta, sized(500)) == 32
