"""MAML and FOMAML against other people's code: torchopt and higher, where they are installed.

One meta-gradient in float64 on a conv4 with a head of zeros. The extra `peers` installs them.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metaward.adapt_settings import AdaptSettings
from metaward.arrays import Tensors
from metaward.episodes import Episode
from metaward.learner_settings import FomamlSettings, MamlSettings
from metaward.meta import fomaml, maml
from metaward.meta.learner import LocalResult
from toy_episodes import WAYS, assert_same, conv_body, random_episode

LR, STEPS = 0.3, 3
ZEROS = AdaptSettings(head="zeros")

pytestmark = [
    pytest.mark.usefixtures("one_thread", "float64"),
    pytest.mark.filterwarnings("ignore"),  # of theirs
]


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Network(nn.Module):
    """A body under a linear head of zeros, as peers want it: one module with its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body, _ = conv_body()
        self.head = nn.Linear(self.body.features, WAYS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images))
        return logits

    def gradient(self) -> Tensors:
        """Return what a peer's backward pass has left on the body."""
        found = {name: leaf.grad for name, leaf in self.body.named_parameters()}
        return {name: leaf for name, leaf in found.items() if leaf is not None}


def ours(*, first_order: bool, checkpoint: bool = False) -> LocalResult:
    (body, theta), episode = conv_body(), random_episode()
    if first_order:
        settings = FomamlSettings(inner_steps=STEPS, inner_lr=LR, adapt=ZEROS)
        return fomaml.task_delta(body, theta, episode, settings)
    return maml.task_delta(
        body, theta, episode,
        MamlSettings(inner_steps=STEPS, inner_lr=LR, checkpoint=checkpoint, adapt=ZEROS),
    )  # fmt: skip


def by_torchopt(network: Network, episode: Episode) -> torch.Tensor:
    torchopt = pytest.importorskip("torchopt", exc_type=ImportError)
    before = torchopt.extract_state_dict(network, by="reference")
    inner = torchopt.MetaSGD(network, lr=LR)
    for _ in range(STEPS):
        inner.step(F.cross_entropy(network(episode.support.images), episode.support.labels))
    loss = F.cross_entropy(network(episode.query.images), episode.query.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    torchopt.recover_state_dict(network, before)
    return loss


def by_higher(network: Network, episode: Episode) -> torch.Tensor:
    higher = pytest.importorskip("higher", exc_type=ImportError)
    sgd = torch.optim.SGD(network.parameters(), lr=LR)
    with higher.innerloop_ctx(network, sgd, copy_initial_weights=False) as (adapted, inner):
        for _ in range(STEPS):
            inner.step(F.cross_entropy(adapted(episode.support.images), episode.support.labels))
        loss = F.cross_entropy(adapted(episode.query.images), episode.query.labels)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss


def first_order_by_higher(network: Network, episode: Episode) -> torch.Tensor:
    """Return the loss; without higher's graph the query's gradient has to be asked for."""
    higher = pytest.importorskip("higher", exc_type=ImportError)
    sgd = torch.optim.SGD(network.parameters(), lr=LR)
    with higher.innerloop_ctx(network, sgd, track_higher_grads=False) as (adapted, inner):
        for _ in range(STEPS):
            inner.step(F.cross_entropy(adapted(episode.support.images), episode.support.labels))
        loss = F.cross_entropy(adapted(episode.query.images), episode.query.labels)
        slopes = torch.autograd.grad(loss, list(adapted.parameters()))
        for leaf, slope in zip(network.parameters(), slopes, strict=True):
            leaf.grad = slope
    return loss


def first_order_by_torchopt(network: Network, episode: Episode) -> torch.Tensor:
    """Return the loss; torchopt has no first-order switch, so each step starts a new graph."""
    torchopt = pytest.importorskip("torchopt", exc_type=ImportError)
    before = torchopt.extract_state_dict(network, by="copy")
    inner = torchopt.MetaSGD(network, lr=LR)
    for _ in range(STEPS):
        inner.step(F.cross_entropy(network(episode.support.images), episode.support.labels))
        torchopt.stop_gradient(network)
    loss = F.cross_entropy(network(episode.query.images), episode.query.labels)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    torchopt.recover_state_dict(network, before)
    for leaf, slope in zip(network.parameters(), slopes, strict=True):
        leaf.grad = slope
    return loss


Peer = Callable[[Network, Episode], torch.Tensor]


def assert_a_peer_finds(result: LocalResult, peer: Peer) -> None:
    network = Network()
    loss = peer(network, random_episode())
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    expected = {name: -slope for name, slope in network.gradient().items()}
    assert_same(result.delta, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("peer", [by_torchopt, by_higher])
def test_maml_is_that_of_a_peer(peer: Peer, checkpoint: bool) -> None:
    assert_a_peer_finds(ours(first_order=False, checkpoint=checkpoint), peer)


@pytest.mark.parametrize("peer", [first_order_by_torchopt, first_order_by_higher])
def test_fomaml_is_that_of_a_peer(peer: Peer) -> None:
    assert_a_peer_finds(ours(first_order=True), peer)


@pytest.mark.parametrize("peer", [by_torchopt, by_higher])
def test_what_a_peer_finds_for_maml_is_not_fomaml(peer: Peer) -> None:
    with pytest.raises(AssertionError, match="not close"):
        assert_a_peer_finds(ours(first_order=True), peer)
