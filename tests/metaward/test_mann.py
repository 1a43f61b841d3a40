"""The memory-augmented learner: by hand, step by step in another form, and what must not matter."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from metaward import wire
from metaward.arrays import Tensors, to_arrays, to_tensors
from metaward.episodes import Episode, Examples, sample_episode
from metaward.errors import ConfigError, DataError
from metaward.learner_settings import MannSettings
from metaward.meta import mann
from metaward.meta.compose import build_learner, build_noised_learner, initial_parameters
from metaward.meta.learner import mean_result
from metaward.meta.presentations import accuracy_by_presentation, presentation_of
from metaward.model_artefact import ModelCard, PrivacyStatement, load_model, save_model
from metaward.models.body import Body, build_body
from metaward.models.memory import MemoryNetwork, least_used_rows
from metaward.study import ModelSettings, Study
from metaward.tasks import Task
from metaward.theta import OWN, body_leaves, own_leaves

MODEL = ModelSettings(image_size=16, filters=8, groups=2)
SMALL = MannSettings(
    n_way=3, n_shot=2, n_query=1, episodes=2, augment="none",
    hidden=6, memory_rows=5, memory_width=4, read_heads=2, usage_decay=0.9, key_strength=2.0,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


class PixelBody(Body):
    """features = pixels, for images of two."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.flatten(1)


BODY = PixelBody()


def theta_of(settings: MannSettings = SMALL, seed: int = 3) -> Tensors:
    """Return theta in float64, its own leaves larger than at a start, so that all of it matters."""
    own = build_learner(settings).own_parameters(BODY, seed)
    return BODY.initial_parameters() | {name: 2.0 * leaf.double() for name, leaf in own.items()}


def random_sequence(labels: Sequence[int] = (0, 2, 1, 1, 0, 0, 2), seed: int = 1) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(labels), 2, 1, 1, generator=generator, dtype=torch.float64)
    return Examples(images, torch.tensor(labels), 3)


def random_episode(seed: int = 1) -> Episode:
    query = random_sequence((2, 0, 1), seed=seed + 100)
    return Episode(random_sequence(seed=seed), query, np.arange(3))


def followed_by(sequence: Examples, query: Examples, row: int) -> Examples:
    """Return the sequence with one query image after it."""
    return Examples(
        torch.cat([sequence.images, query.images[row : row + 1]]),
        torch.cat([sequence.labels, query.labels[row : row + 1]]),
        sequence.n_way,
    )


def task(n_labels: int = 3, per_label: int = 8, seed: int = 0) -> Task:
    """Return a task whose labels are where a bright bar stands; one image per patient."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_labels), per_label)
    images = (rng.normal(size=(len(labels), 1, 16, 16)) * 0.05 + 0.3).astype(np.float32)
    for index, label in enumerate(labels):
        images[index, 0, 4 * label : 4 * label + 4] += 0.5
    names = tuple("abcd"[:n_labels])
    return Task("north", images, labels, np.arange(len(labels)), names)


# --- the memory -----------------------------------------------------------------------------------


def one_row_each(hidden: float) -> MemoryNetwork:
    """A controller without inputs whose h is a known number, with W_k = 1, W_a = 0 and W_o = 1."""
    network = MemoryNetwork(
        1, 1, hidden=1, rows=2, width=1, heads=1, decay=0.5, strength=1.0,
    ).double()  # fmt: skip
    with torch.no_grad():
        for leaf in network.parameters():
            leaf.zero_()
        # Gates i and o open, c = tanh(bias) at the first step.
        network.controller.bias_ih.copy_(torch.tensor([50.0, -50.0, math.atanh(hidden), 50.0]))
        network.key.weight.fill_(1.0)
        network.output.weight.fill_(1.0)
    return network


def test_two_steps_of_the_memory_are_those_worked_by_hand() -> None:
    # f = 0 forgets, so c = hidden at each step, h = tanh(c), k = tanh(h); the gate stands at 1/2.
    # Step 1: nothing was read, all rows unused: half of k goes to row 0. M = (k/2, 0).
    #   cosines (1, 0): w^r = (e, 1) / (e + 1) =: (p, 1 - p); r = p k / 2; usage (p + 1/2, 1 - p).
    # Step 2: row 1 is least used. w^w = (p/2, (1 - p)/2 + 1/2); row 1 is zeroed (it was zero).
    #   M = (k/2 + p k/2, k (1 - p/2)); both cosines 1: w^r = (1/2, 1/2); r = k (3 / 4) exactly.
    hidden = 0.5
    h = math.tanh(hidden)
    k = math.tanh(h)
    p = math.e / (math.e + 1)
    network = one_row_each(hidden)
    logits, state = network(torch.zeros(2, 1, 1, dtype=torch.float64))
    assert logits[0].item() == pytest.approx(h + p * k / 2, rel=1e-5)
    assert logits[1].item() == pytest.approx(h + 3 * k / 4, rel=1e-5)
    memory = [k / 2 + p * k / 2, k * (1 - p / 2)]
    assert state.memory.flatten().tolist() == pytest.approx(memory, rel=1e-5)
    usage = [0.5 * (p + 0.5) + 0.5 + p / 2, 0.5 * (1 - p) + 0.5 + 1 - p / 2]
    assert state.usage.flatten().tolist() == pytest.approx(usage, rel=1e-5)


def test_the_least_used_row_is_emptied_before_it_is_written() -> None:
    network = one_row_each(0.5)
    _, state = network(torch.zeros(3, 1, 1, dtype=torch.float64))
    # After step 2, worked above, the usage is (1/2 (p + 1/2) + 1/2 + p/2, 1/2 (1 - p) + 3/2 - p/2)
    # = (1.48, 1.27): row 1 is emptied of k (1 - p/2), and both rows get half of w^r = 1/2.
    p = math.e / (math.e + 1)
    k = math.tanh(math.tanh(0.5))
    expected = [k / 2 + p * k / 2 + k / 4, k / 4 + k / 2]
    assert state.memory.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def by_the_formulas(theta: Tensors, sequence: Examples, s: MannSettings) -> torch.Tensor:
    """The paper's equations once more, head by head and row by row, with an LSTM by hand."""
    own = own_leaves(theta)
    features = body_leaves(theta)["scale"] * sequence.images.flatten(1)
    rows, heads, width = s.memory_rows, s.read_heads, s.memory_width
    h = c = torch.zeros(s.hidden, dtype=torch.float64)
    memory = [torch.zeros(width, dtype=torch.float64) for _ in range(rows)]
    usage = [torch.zeros((), dtype=torch.float64) for _ in range(rows)]
    where = [[torch.zeros((), dtype=torch.float64)] * rows for _ in range(heads)]
    read = torch.zeros(heads * width, dtype=torch.float64)
    told = torch.zeros(s.n_way, dtype=torch.float64)
    logits = []
    for x, y in zip(features, sequence.labels.tolist(), strict=True):
        z = own["controller.weight_ih"] @ torch.cat([x, told, read]) + own["controller.bias_ih"]
        z = z + own["controller.weight_hh"] @ h + own["controller.bias_hh"]
        i, f, g, o = z.split(s.hidden)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        keys = (own["key.weight"] @ h + own["key.bias"]).tanh().split(width)
        gates = (own["gate.weight"] @ h + own["gate.bias"]).sigmoid()
        least = sorted(range(rows), key=lambda row: float(usage[row].detach()))[:heads]
        memory = [row * (j not in least) for j, row in enumerate(memory)]
        usage = [s.usage_decay * u for u in usage]
        for head in range(heads):
            for j in range(rows):
                w = gates[head] * where[head][j] + (1 - gates[head]) * float(j == least[head])
                memory[j] = memory[j] + w * keys[head]
                usage[j] = usage[j] + w
        reads = []
        for head in range(heads):
            lengths = [(row.square().sum() + 1e-6).sqrt() for row in memory]
            own_length = (keys[head].square().sum() + 1e-6).sqrt()
            cosine = [keys[head] @ memory[j] / own_length / lengths[j] for j in range(rows)]
            where[head] = list((s.key_strength * torch.stack(cosine)).softmax(0))
            usage = [usage[j] + where[head][j] for j in range(rows)]
            reads.append(sum((where[head][j] * memory[j] for j in range(rows)), torch.zeros(width)))
        read = torch.cat(reads)
        logits.append(own["output.weight"] @ torch.cat([h, read]) + own["output.bias"])
        told = F.one_hot(torch.tensor(y), s.n_way).double()
    return torch.stack(logits)


def loss_by_the_formulas(theta: Tensors, episode: Episode) -> torch.Tensor:
    """Every support image from those before it, every query image as the one after them all."""
    support, query = episode.support, episode.query
    named = [by_the_formulas(theta, support, SMALL)]
    longer = [followed_by(support, query, row) for row in range(3)]
    named += [by_the_formulas(theta, sequence, SMALL)[-1:] for sequence in longer]
    return F.cross_entropy(torch.cat(named), torch.cat([support.labels, query.labels]))


def test_the_delta_is_minus_the_gradient_of_the_papers_formulas() -> None:
    theta, episode = theta_of(), random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    loss = loss_by_the_formulas(leaves, episode)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    result = mann.task_delta(BODY, theta, [episode], SMALL)
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    assert list(result.delta) == list(theta)
    for ours, theirs in zip(result.delta.values(), gradients, strict=True):
        torch.testing.assert_close(ours, -theirs, rtol=1e-7, atol=1e-10)


def test_the_delta_matches_finite_differences() -> None:
    theta, episode = theta_of(), random_episode()
    delta = mann.task_delta(BODY, theta, [episode], SMALL).delta
    generator = torch.Generator().manual_seed(0)
    step = 1e-6

    def loss(sign: int, direction: Tensors) -> float:
        moved = {name: leaf + sign * step * direction[name] for name, leaf in theta.items()}
        return mann.task_delta(BODY, moved, [episode], SMALL).loss

    for _ in range(3):
        direction = {
            name: torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            for name, leaf in theta.items()
        }
        along = sum(float((delta[name] * direction[name]).sum()) for name in theta)
        slope = (loss(1, direction) - loss(-1, direction)) / (2 * step)
        assert -along == pytest.approx(slope, rel=1e-5)


def test_of_rows_that_are_used_equally_the_first_are_least_used() -> None:
    usage = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 2.0, 1.0]])
    chosen = least_used_rows(usage, 3).argmax(dim=2)
    assert chosen.tolist() == [[0, 1, 2], [1, 3, 2]]


def test_episodes_that_are_read_side_by_side_have_a_memory_each() -> None:
    theta, two = theta_of(), [random_episode(1), random_episode(2)]
    alone = mean_result(mann.task_delta(BODY, theta, [episode], SMALL) for episode in two)
    together = mann.task_delta(BODY, theta, two, SMALL)
    assert together.loss == pytest.approx(alone.loss, rel=1e-12)
    for name in theta:
        torch.testing.assert_close(together.delta[name], alone.delta[name], rtol=1e-9, atol=1e-12)


# --- what it may know -----------------------------------------------------------------------------


def logits_of(sequence: Examples) -> torch.Tensor:
    return mann.read_sequences(BODY, theta_of(), [sequence], SMALL)[0][0]


@pytest.mark.parametrize("step", range(7))
def test_an_image_is_named_before_its_label_or_any_later_one_comes(step: int) -> None:
    sequence = random_sequence()
    labels = sequence.labels.clone()
    labels[step:] = (labels[step:] + 1) % 3
    images = sequence.images.clone()
    images[step + 1 :] += 1.0
    other = logits_of(Examples(images, labels, 3))
    assert torch.equal(other[: step + 1], logits_of(sequence)[: step + 1])
    if step < 6:  # and the step after it knows the label
        relabelled = logits_of(Examples(sequence.images, labels, 3))
        assert not torch.allclose(relabelled[step + 1], logits_of(sequence)[step + 1])


def answers(support: Examples, images: torch.Tensor) -> torch.Tensor:
    """Name images after a support set that is read in the order in which it is given."""
    theta = theta_of()
    _, read = mann.read_sequences(BODY, theta, [support], SMALL)
    return mann.name_next(BODY, theta, read, images[None], SMALL)[0]


def test_a_query_is_the_next_step_of_the_support() -> None:
    episode = random_episode()
    named = answers(episode.support, episode.query.images)
    for row in range(3):
        after = logits_of(followed_by(episode.support, episode.query, row))[-1]
        torch.testing.assert_close(named[row], after, rtol=1e-12, atol=1e-12)


def test_an_answer_depends_on_no_other_query(monkeypatch: pytest.MonkeyPatch) -> None:
    classify = build_learner(SMALL).adapt(BODY, theta_of(), random_sequence())
    images = random_sequence(range(3), seed=4).images
    together = classify(images)
    torch.testing.assert_close(classify(images.flip(0)).flip(0), together, rtol=1e-12, atol=1e-12)
    alone = torch.cat([classify(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    assert classify(images[:0]).shape == (0, 3)
    monkeypatch.setattr(mann, "QUERIES_AT_ONCE", 2)
    torch.testing.assert_close(classify(images), together, rtol=1e-12, atol=1e-12)


@settings(max_examples=15)
@given(order=st.permutations(range(7)))
def test_a_support_set_gives_the_same_answers_in_whatever_order_it_is_given(
    order: list[int],
) -> None:
    support, query = random_sequence(), random_sequence(seed=4).images
    rows = torch.tensor(order)
    shuffled = Examples(support.images[rows], support.labels[rows], 3)
    adapt = build_learner(SMALL).adapt
    torch.testing.assert_close(
        adapt(BODY, theta_of(), shuffled)(query),
        adapt(BODY, theta_of(), support)(query),
        rtol=1e-12,
        atol=1e-12,
    )


def test_the_order_that_is_read_matters_so_it_is_not_the_one_that_is_given() -> None:
    support, query = random_sequence(), random_sequence(seed=4).images
    orders = [mann.reading_order(random_sequence(seed=seed)).tolist() for seed in range(20)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    backwards = Examples(support.images.flip(0), support.labels.flip(0), 3)
    assert not torch.allclose(answers(support, query), answers(backwards, query), rtol=1e-3)


@settings(max_examples=10)
@given(new_number=st.permutations(range(3)))
def test_numbering_the_classes_anew_is_numbering_the_slots_anew(new_number: list[int]) -> None:
    """What a slot means is in the weights that read and write it, and nowhere else."""
    theta, sequence = theta_of(), random_sequence()
    other = Examples(sequence.images, torch.tensor(new_number)[sequence.labels], 3)
    moved = dict(theta)
    told = torch.tensor([2 + i for i in range(3)])
    for name in ("output.weight", "output.bias"):
        moved[OWN + name] = theta[OWN + name].clone()
        moved[OWN + name][new_number] = theta[OWN + name]
    moved[OWN + "controller.weight_ih"] = theta[OWN + "controller.weight_ih"].clone()
    moved[OWN + "controller.weight_ih"][:, told[new_number]] = theta[
        OWN + "controller.weight_ih"
    ][:, told]  # fmt: skip
    logits, _ = mann.read_sequences(BODY, theta, [sequence], SMALL)
    renumbered, _ = mann.read_sequences(BODY, moved, [other], SMALL)
    torch.testing.assert_close(renumbered[0][:, new_number], logits[0], rtol=1e-9, atol=1e-9)


# --- the learner ----------------------------------------------------------------------------------


def test_a_site_reads_each_support_in_an_order_drawn_by_its_own_generator() -> None:
    labels = torch.arange(3).repeat_interleave(2)
    side = Examples(torch.arange(6.0).view(6, 1, 1, 1), labels, 3)
    episode = Episode(side, side, np.arange(6))
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


def test_more_heads_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"read_heads \(3\) must be at most memory_rows \(2\)"):
        MannSettings(read_heads=3, memory_rows=2)


def test_it_has_no_noised_form_and_says_what_to_take_in_its_place() -> None:
    with pytest.raises(ConfigError, match=r"learner mann with mechanism dp-sgd.*mechanism block"):
        build_noised_learner(SMALL, 2)


LEARNING = MannSettings(
    n_way=2, n_shot=1, n_query=2, episodes=24, augment="none",
    hidden=16, memory_rows=8, memory_width=8,
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
    arrived = wire.decode_order(order, lambda _: wire.spec_of(theta)).theta
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
