"""Reptile, FOMAML and FedAvg against cases worked by hand and against finite differences."""

import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from metaward.adapt_settings import AdaptSettings
from metaward.episodes import Episode, Examples
from metaward.learner_settings import FedAvgSettings, FomamlSettings, ReptileSettings
from metaward.meta import fomaml, reptile
from metaward.meta.compose import build_learner
from metaward.meta.head import Head, prototype_head
from metaward.meta.inner_loop import adapt_on_support, episode_loss, inner_loop
from metaward.meta.learner import LocalResult, mean_result
from metaward.model_settings import ModelSettings
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.tasks import Task

A, W = 0.7, 1.3  # inner learning rate and the body's one parameter
SUPPORT = ([1.0, -1.0], [0, 1])
ZEROS = AdaptSettings(head="zeros", steps=1, lr=A)

pytestmark = pytest.mark.usefixtures("one_thread")


class ScalarBody(Body):
    """feature = w * pixel, for images of one pixel: small enough to work by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.features = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.w * images.flatten(1)


def theta() -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(W, dtype=torch.float64)}


def pixels(values: list[float], labels: list[int]) -> Examples:
    images = torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)
    return Examples(images, torch.tensor(labels), n_way=2)


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def episode() -> Episode:
    query = pixels([1.0], [0])
    return Episode(pixels(*SUPPORT), query)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
def test_fomaml_gives_the_first_order_gradient_worked_by_hand() -> None:
    # Zero head: both classes at 1/2, so the first step moves the head by (+-a w / 2) and not w.
    # Query loss log(1 + exp(-a w^2)); d/dw with the head held fixed: -sigmoid(-a w^2) a w.
    settings = FomamlSettings(inner_steps=1, inner_lr=A, adapt=ZEROS)
    result = fomaml.task_delta(ScalarBody(), theta(), episode(), settings)
    expected = sigmoid(-A * W**2) * A * W
    assert float(result.delta["w"]) == pytest.approx(expected, rel=1e-12)
    assert result.loss == pytest.approx(math.log1p(math.exp(-A * W**2)), rel=1e-12)


@pytest.mark.usefixtures("float64")
def test_fomaml_is_half_of_second_order_maml_in_the_case_worked_by_hand() -> None:
    # With the second-order term the head's step a w / 2 is differentiated too: the factor is 2.
    w = torch.tensor(W, requires_grad=True)
    head_step = A * w / 2
    loss = F.cross_entropy(torch.stack([head_step * w, -head_step * w])[None], torch.tensor([0]))
    (full,) = torch.autograd.grad(loss, w)
    settings = FomamlSettings(inner_steps=1, inner_lr=A, adapt=ZEROS)
    first_order = fomaml.task_delta(ScalarBody(), theta(), episode(), settings).delta["w"]
    assert float(-full) == pytest.approx(2 * float(first_order), rel=1e-12)


@pytest.mark.usefixtures("float64")
def test_reptile_gives_the_step_worked_by_hand() -> None:
    # Step 1 moves the head only (see above). Step 2: dL/dw = -a w sigmoid(-a w^2).
    settings = ReptileSettings(
        inner_steps=2, inner_lr=A, inner_batch=2, augment="none", adapt=ZEROS
    )
    rng = np.random.default_rng(0)
    result = reptile.task_delta(ScalarBody(), theta(), pixels(*SUPPORT), settings, rng)
    assert float(result.delta["w"]) == pytest.approx(A * A * W * sigmoid(-A * W**2), rel=1e-12)


def random_episode(seed: int) -> tuple[Body, dict[str, torch.Tensor], Episode]:
    generator = torch.Generator().manual_seed(seed)
    body = build_body(ModelSettings(image_size=16, filters=8, groups=2), seed).double()
    labels = torch.arange(3).repeat_interleave(2)

    def draw() -> Examples:
        return Examples(torch.randn(6, 1, 16, 16, generator=generator), labels, 3)

    return body, body.initial_parameters(), Episode(draw(), draw())


@pytest.mark.usefixtures("float64")
def test_the_loss_of_an_inner_loop_is_the_mean_of_what_its_steps_set_out_from() -> None:
    body, start, drawn = random_episode(3)
    head = prototype_head(body.apply_with(start, drawn.support.images), drawn.support.labels, 3)
    after_one = inner_loop(body, start, head, [drawn.support], lr=0.3)
    second = float(episode_loss(body, after_one.phi, after_one.head, drawn.query).detach())
    both = inner_loop(body, start, head, [drawn.support, drawn.query], lr=0.3)
    assert both.loss == pytest.approx((after_one.loss + second) / 2, rel=1e-12)
    assert math.isnan(inner_loop(body, start, head, [], lr=0.3).loss)


@pytest.mark.usefixtures("float64")
def test_equal_supports_give_equal_classifiers_also_from_mini_batches() -> None:
    body, start, drawn = random_episode(3)
    settings = AdaptSettings(steps=5, lr=0.3, batch_size=2)
    one, other = (adapt_on_support(body, start, drawn.support, settings) for _ in range(2))
    assert torch.equal(one.head.weight, other.head.weight)
    assert all(torch.equal(leaf, other.phi[name]) for name, leaf in one.phi.items())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [0, 2])
def test_fomaml_matches_finite_differences_of_its_surrogate(steps: int) -> None:
    # First order means: phi = theta + c and head = head_0(theta) + d, with c and d held fixed.
    body, start, drawn = random_episode(5)
    settings = FomamlSettings(inner_steps=steps, inner_lr=0.3, adapt=AdaptSettings())
    first = prototype_head(body.apply_with(start, drawn.support.images), drawn.support.labels, 3)
    adapted = inner_loop(body, start, first, [drawn.support] * steps, lr=0.3)

    def surrogate(point: dict[str, torch.Tensor]) -> float:
        features = body.apply_with(point, drawn.support.images)
        head = prototype_head(features, drawn.support.labels, 3)
        phi = {k: point[k] + adapted.phi[k].detach() - start[k] for k in point}
        shifted = Head(
            head.weight + (adapted.head.weight - first.weight).detach(),
            head.bias + (adapted.head.bias - first.bias).detach(),
        )
        return float(episode_loss(body, phi, shifted, drawn.query).detach())

    direction = {k: torch.randn_like(v) for k, v in start.items()}
    h = 1e-7  # small: a ReLU that flips within the step would show
    plus = surrogate({k: start[k] + h * direction[k] for k in start})
    minus = surrogate({k: start[k] - h * direction[k] for k in start})
    delta = fomaml.task_delta(body, start, drawn, settings).delta
    along = sum(float((delta[k] * direction[k]).sum()) for k in start)
    assert -along == pytest.approx((plus - minus) / (2 * h), rel=1e-5)


@pytest.mark.usefixtures("float64")
def test_fomaml_without_inner_steps_is_a_prototypical_network() -> None:
    body, start, drawn = random_episode(6)
    leaves = {k: v.clone().requires_grad_() for k, v in start.items()}
    support = body.apply_with(leaves, drawn.support.images)
    query = body.apply_with(leaves, drawn.query.images)
    centres = torch.stack([support[drawn.support.labels == c].mean(0) for c in range(3)])
    distances = torch.cdist(query, centres).square() / math.sqrt(support.shape[1])
    loss = F.cross_entropy(-distances, drawn.query.labels)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    result = fomaml.task_delta(body, start, drawn, FomamlSettings(inner_steps=0))
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    for ours, theirs in zip(result.delta.values(), expected, strict=True):
        torch.testing.assert_close(-ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_prototypes_do_not_depend_on_the_order_of_the_support_set() -> None:
    features = torch.randn(6, 4)
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    one, other = (
        prototype_head(features, labels, 3),
        prototype_head(features[order], labels[order], 3),
    )
    torch.testing.assert_close(one.weight, other.weight)
    torch.testing.assert_close(one.bias, other.bias)


@pytest.mark.usefixtures("float64")
def test_the_inner_loop_leaves_theta_and_the_module_as_they_were() -> None:
    body, start, drawn = random_episode(7)
    before = {k: v.clone() for k, v in start.items()}
    own = body.initial_parameters()
    build_learner(FomamlSettings(n_way=3)).adapt(body, start, drawn.support)
    fomaml.task_delta(body, start, drawn, FomamlSettings())
    for name in start:
        assert torch.equal(start[name], before[name])
        assert torch.equal(body.initial_parameters()[name], own[name])
        assert not start[name].requires_grad


def small_task() -> Task:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 12)
    images = (rng.normal(size=(36, 1, 16, 16)) * 0.1 + 0.5).astype(np.float32)
    for index, label in enumerate(labels):
        images[index, 0, 4 * label : 4 * label + 4] += 0.4
    return Task("north", images, labels, np.arange(36), ("a", "b", "c"))


def test_fedavg_learns_of_the_labels_that_have_images() -> None:
    """A name may have lost all its images to decoding; a mean of none would be no number."""
    rng = np.random.default_rng(0)
    images, patients = rng.random((24, 1, 16, 16), dtype=np.float32), np.arange(24)
    body = build_body(ModelSettings(filters=8, groups=2, image_size=16), seed=0)
    settings = FedAvgSettings(local_steps=2, augment="none")

    def delta(labels: list[int], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        task = Task("north", images, np.repeat(labels, 12), patients, names)
        learner = build_learner(settings)
        found = learner.local_delta(body, body.initial_parameters(), task, np.random.default_rng(1))
        return found.delta

    with_a_gap = delta([0, 2], ("a", "without an image", "c"))
    for name, leaf in delta([0, 1], ("a", "c")).items():
        assert torch.equal(with_a_gap[name], leaf)


def test_fedavg_takes_plain_sgd_steps_on_all_labels_at_once() -> None:
    body = build_body(ModelSettings(image_size=16, filters=8, groups=2), seed=4)
    task, start = small_task(), body.initial_parameters()
    settings = FedAvgSettings(local_steps=1, batch_size=36, local_lr=0.1, augment="none")
    result = build_learner(settings).local_delta(body, start, task, np.random.default_rng(0))

    # 12 images per label: the head comes from 10 of each, drawn by the same generator.
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.permutation(np.arange(12) + 12 * c)[:10] for c in range(3)])
    leaves = {k: v.clone().requires_grad_() for k, v in start.items()}
    with torch.no_grad():
        head = prototype_head(
            body.apply_with(start, task.take(rows)), torch.from_numpy(task.labels[rows]), 3
        )
    everything = Examples(task.take(np.arange(36)), torch.from_numpy(task.labels), 3)
    gradient = torch.autograd.grad(
        episode_loss(body, leaves, head, everything), list(leaves.values())
    )
    for ours, theirs in zip(result.delta.values(), gradient, strict=True):
        torch.testing.assert_close(ours, -0.1 * theirs, rtol=1e-4, atol=1e-6)


def test_a_mean_over_episodes_holds_one_result_at_a_time() -> None:
    given: list[weakref.ref[LocalResult]] = []
    most = 0

    def results() -> Iterator[LocalResult]:
        nonlocal most
        for value in (1.0, 2.0, 6.0, 7.0, 4.0):
            result = LocalResult({"w": torch.tensor([value])}, value)
            given.append(weakref.ref(result))
            most = max(most, sum(reference() is not None for reference in given))
            yield result
            del result

    mean = mean_result(results())
    assert (float(mean.delta["w"]), mean.loss) == (4.0, 4.0)
    assert most <= 3  # the first one, from which the sum's form is taken, the last, and the next


def test_an_adapted_classifier_reads_its_support_set_correctly() -> None:
    body = build_body(ModelSettings(image_size=16, filters=8, groups=2), seed=4)
    task = small_task()
    support = Examples(
        task.take(np.arange(36)), torch.from_numpy(task.labels), len(task.label_names)
    )
    for head in ("prototypes", "zeros"):
        settings = FomamlSettings(adapt=AdaptSettings(head=head, steps=30, lr=0.1))
        classify = build_learner(settings).adapt(body, body.initial_parameters(), support)
        assert (classify(support.images).argmax(1) == support.labels).float().mean() > 0.9
