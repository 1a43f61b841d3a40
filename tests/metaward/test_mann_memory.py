"""The memory of the memory-augmented learner: by hand, and step by step in another form."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mann_cases import BODY, both_ways, followed_by, random_episode, theta_of
from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import MannSettings
from metaward.meta import mann
from metaward.meta.learner import mean_result
from metaward.models.memory import MemoryNetwork, least_used_rows
from metaward.theta import body_leaves, own_leaves

pytestmark = pytest.mark.usefixtures("one_thread")


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
    # Step 1: all rows empty, so w^r = (1/2, 1/2) and r = 0. Nothing was read before, all rows are
    #   unused: half of k goes to row 0. M = (k/2, 0); usage (1/2 + 1/2, 1/2) = (1, 1/2).
    # Step 2: cosines (1, 0): w^r = (e, 1) / (e + 1) =: (p, 1 - p); r = p k / 2. Row 1 is least
    #   used: w^w = (1/4, 1/4 + 1/2). M = (k/2 + k/4, 3 k / 4).
    hidden = 0.5
    h = math.tanh(hidden)
    k = math.tanh(h)
    p = math.e / (math.e + 1)
    network = one_row_each(hidden)
    logits, state = network(torch.zeros(2, 1, 1, dtype=torch.float64))
    assert logits[0].item() == pytest.approx(h, rel=1e-5)
    assert logits[1].item() == pytest.approx(h + p * k / 2, rel=1e-5)
    assert state.memory.flatten().tolist() == pytest.approx([3 * k / 4, 3 * k / 4], rel=1e-5)
    usage = [0.5 * 1 + p + 1 / 4, 0.5 * 0.5 + (1 - p) + 3 / 4]
    assert state.usage.flatten().tolist() == pytest.approx(usage, rel=1e-5)


def test_the_least_used_row_is_emptied_before_it_is_written() -> None:
    network = one_row_each(0.5)
    _, state = network(torch.zeros(3, 1, 1, dtype=torch.float64))
    # After step 2, worked above, the usage is (p + 3/4, 2 - p) = (1.48, 1.27): row 1 is emptied of
    # 3 k / 4. With w^r = (p, 1 - p) of step 2, w^w = (p/2, (1 - p)/2 + 1/2).
    p = math.e / (math.e + 1)
    k = math.tanh(math.tanh(0.5))
    expected = [3 * k / 4 + p * k / 2, k * (1 - p / 2)]
    assert state.memory.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_a_step_reads_what_was_there_and_not_what_it_writes() -> None:
    # A key has a cosine of 1 with itself: were its own row read too, the row of another step, of
    # cosine 1/2 with it, would have 1 / (1 + e^5) of the reading at a strength of 10.
    network = MemoryNetwork(
        1, 1, hidden=1, rows=3, width=2, heads=1, decay=0.9, strength=10.0,
    ).double()  # fmt: skip
    inputs = torch.zeros(1, 1, dtype=torch.float64)
    memory = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    usage = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    state = replace(network.empty(inputs), memory=memory, usage=usage)
    with torch.no_grad():
        network.key.weight.zero_()
        network.key.bias.copy_(torch.tensor([1.0, math.sqrt(3)]).mul(0.2).atanh())
        after = network.step(inputs, state)
    weight = math.exp(5) / (math.exp(5) + 2)
    assert after.read_weights[0, 0, 0].item() == pytest.approx(weight, rel=1e-4)
    assert after.read.flatten().tolist() == pytest.approx([weight, 0.0], rel=1e-4)


def told_of(sequence: Examples, s: MannSettings, *, support: int) -> torch.Tensor:
    """What each step is told: the label before, or the image's own but for those of queries."""
    labels = F.one_hot(sequence.labels, s.n_way).double()
    nothing = torch.zeros_like(labels)
    if s.labels_come == "late":
        return torch.cat([nothing[:1], labels[:-1]])
    return torch.cat([labels[:support], nothing[support:]])


def by_the_formulas(
    theta: Tensors, sequence: Examples, s: MannSettings, *, support: int
) -> torch.Tensor:
    """The paper's equations once more, head by head and row by row, with an LSTM by hand."""
    own = own_leaves(theta)
    features = body_leaves(theta)["scale"] * sequence.images.flatten(1)
    rows, heads, width = s.memory_rows, s.read_heads, s.memory_width
    h = c = torch.zeros(s.hidden, dtype=torch.float64)
    memory = [torch.zeros(width, dtype=torch.float64) for _ in range(rows)]
    usage = [torch.zeros((), dtype=torch.float64) for _ in range(rows)]
    where = [[torch.zeros((), dtype=torch.float64)] * rows for _ in range(heads)]
    read = torch.zeros(heads * width, dtype=torch.float64)
    logits = []
    for x, told in zip(features, told_of(sequence, s, support=support), strict=True):
        z = own["controller.weight_ih"] @ torch.cat([x, told, read]) + own["controller.bias_ih"]
        z = z + own["controller.weight_hh"] @ h + own["controller.bias_hh"]
        i, f, g, o = z.split(s.hidden)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        keys = (own["key.weight"] @ h + own["key.bias"]).tanh().split(width)
        gates = (own["gate.weight"] @ h + own["gate.bias"]).sigmoid()
        least = sorted(range(rows), key=lambda row: float(usage[row].detach()))[:heads]
        before, where_before = memory, where
        usage = [s.usage_decay * u for u in usage]
        reads, where = [], []
        for head in range(heads):
            lengths = [(row.square().sum() + 1e-6).sqrt() for row in before]
            own_length = (keys[head].square().sum() + 1e-6).sqrt()
            cosine = [keys[head] @ before[j] / own_length / lengths[j] for j in range(rows)]
            where.append(list((s.key_strength * torch.stack(cosine)).softmax(0)))
            usage = [usage[j] + where[head][j] for j in range(rows)]
            reads.append(sum((where[head][j] * before[j] for j in range(rows)), torch.zeros(width)))
        memory = [row * (j not in least) for j, row in enumerate(before)]
        for head in range(heads):
            for j in range(rows):
                w = gates[head] * where_before[head][j]
                w = w + (1 - gates[head]) * float(j == least[head])
                memory[j] = memory[j] + w * keys[head]
                usage[j] = usage[j] + w
        read = torch.cat(reads)
        logits.append(own["output.weight"] @ torch.cat([h, read]) + own["output.bias"])
    return torch.stack(logits)


def loss_by_the_formulas(theta: Tensors, episode: Episode, s: MannSettings) -> torch.Tensor:
    """Every query image as the one after the support; each of that too if its label comes late."""
    support, query = episode.support, episode.query
    n = len(support.labels)
    longer = [followed_by(support, query, row) for row in range(3)]
    named = torch.cat([by_the_formulas(theta, one, s, support=n)[-1:] for one in longer])
    labels = query.labels
    if s.labels_come == "late":
        named = torch.cat([by_the_formulas(theta, support, s, support=n), named])
        labels = torch.cat([support.labels, labels])
    return F.cross_entropy(named, labels) + s.body_weight * loss_of_class_means(theta, episode)


def loss_of_class_means(theta: Tensors, episode: Episode) -> torch.Tensor:
    """Snell et al. 2017 on the body's features, distances divided by the root of their number."""
    scale = body_leaves(theta)["scale"]
    seen, asked = (scale * side.images.flatten(1) for side in (episode.support, episode.query))
    means = torch.stack([seen[episode.support.labels == k].mean(dim=0) for k in range(3)])
    distances = (asked[:, None] - means[None]).square().sum(dim=2)
    return F.cross_entropy(-distances / math.sqrt(2), episode.query.labels)


@both_ways
def test_the_delta_is_minus_the_gradient_of_the_written_formulas(learner: MannSettings) -> None:
    theta, episode = theta_of(), random_episode()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    loss = loss_by_the_formulas(leaves, episode, learner)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    result = mann.task_delta(BODY, theta, [episode], learner)
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    assert list(result.delta) == list(theta)
    for ours, theirs in zip(result.delta.values(), gradients, strict=True):
        torch.testing.assert_close(ours, -theirs, rtol=1e-7, atol=1e-10)


@both_ways
def test_the_delta_matches_finite_differences(learner: MannSettings) -> None:
    theta, episode = theta_of(), random_episode()
    delta = mann.task_delta(BODY, theta, [episode], learner).delta
    generator = torch.Generator().manual_seed(0)
    step = 1e-6

    def loss(sign: int, direction: Tensors) -> float:
        moved = {name: leaf + sign * step * direction[name] for name, leaf in theta.items()}
        return mann.task_delta(BODY, moved, [episode], learner).loss

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


@both_ways
def test_without_a_weight_for_the_body_the_loss_is_that_of_the_memory_alone(
    learner: MannSettings,
) -> None:
    theta, episode = theta_of(), random_episode()
    without = learner.model_copy(update={"body_weight": 0.0})
    both = mann.task_delta(BODY, theta, [episode], learner).loss
    alone = mann.task_delta(BODY, theta, [episode], without).loss
    of_body = float(loss_of_class_means(theta, episode))
    assert both == pytest.approx(alone + 0.5 * of_body, rel=1e-12)
    assert of_body > 0


@both_ways
def test_episodes_that_are_read_side_by_side_have_a_memory_each(learner: MannSettings) -> None:
    theta, two = theta_of(), [random_episode(1), random_episode(2, last=0)]
    alone = mean_result(mann.task_delta(BODY, theta, [episode], learner) for episode in two)
    together = mann.task_delta(BODY, theta, two, learner)
    assert together.loss == pytest.approx(alone.loss, rel=1e-12)
    for name in theta:
        torch.testing.assert_close(together.delta[name], alone.delta[name], rtol=1e-9, atol=1e-12)
