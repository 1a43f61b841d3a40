"""The same meta-batch as others compute it: by hand, and with `higher` and `torchopt`.

The network is what one writes: convolution, GroupNorm, ReLU, pool, in torch's default layout.
"""

import copy
import importlib.util
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from meta_batch_case import LR, N_WAY, REPTILE_BATCH, STEPS, Case
from metaward.episodes import Episode, Examples
from metaward.models.body import Body

LIBRARIES = ("higher", "torchopt")

Gradient: TypeAlias = list[torch.Tensor]
"""The mean delta over the meta-batch, in the order of the body's leaves."""
Work: TypeAlias = Callable[[], Gradient]


def plain_network(case: Case, body: Body) -> nn.Sequential:
    """Return the usual layers in the usual order, with the body's weights; then a linear head."""
    layers: list[nn.Module] = []
    fan_in = 1
    for _ in range(4):
        layers += [
            nn.Conv2d(fan_in, case.filters, 3, padding=1, bias=False),
            nn.GroupNorm(4, case.filters),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        fan_in = case.filters
    head = nn.Linear(body.features, N_WAY)  # all of it moves to the body's device below
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network = nn.Sequential(*layers, nn.Flatten(), head).to(next(body.parameters()))
    own = body.initial_parameters()
    with torch.no_grad():
        for block in range(4):
            layers[4 * block].weight.copy_(own[f"convs.{block}.weight"])
    return network


def in_our_order(gradients: list[torch.Tensor], scale: float) -> Gradient:
    """Return the body's part, all convolutions first and then all norms, as the library has it."""
    blocks = [gradients[3 * block : 3 * block + 3] for block in range(4)]
    return [scale * one[0] for one in blocks] + [scale * leaf for one in blocks for leaf in one[1:]]


def summed(totals: list[torch.Tensor] | None, more: list[torch.Tensor]) -> list[torch.Tensor]:
    return more if totals is None else [a + b for a, b in zip(totals, more, strict=True)]


def loss_of(network: Any, examples: Examples) -> torch.Tensor:  # Any: a module, or one of a peer's
    return F.cross_entropy(network(examples.images), examples.labels)


def by_hand_prototypical(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    layers = network[:-1]
    layers.zero_grad()
    for episode in episodes:
        support, query = episode.support, episode.query
        features = layers(torch.cat([support.images, query.images]))
        n = len(support.labels)
        centres = torch.stack(
            [features[:n][support.labels == label].mean(dim=0) for label in range(N_WAY)]
        )
        distances = torch.cdist(features[n:], centres).square() / features.shape[1] ** 0.5
        (F.cross_entropy(-distances, query.labels) / len(episodes)).backward()
    return in_our_order([leaf.grad for leaf in layers.parameters()], -1.0)


def by_hand_reptile(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    total, rng = None, np.random.default_rng(0)
    for episode in episodes:
        adapted = copy.deepcopy(network)
        optimiser = torch.optim.SGD(adapted.parameters(), lr=LR)
        waiting = np.empty(0, dtype=np.int64)
        for _ in range(STEPS):
            size = min(REPTILE_BATCH, len(episode.support.labels))
            if len(waiting) < size:
                waiting = np.concatenate([waiting, rng.permutation(len(episode.support.labels))])
            rows, waiting = waiting[:size], waiting[size:]
            optimiser.zero_grad()
            logits = adapted(episode.support.images[rows])
            F.cross_entropy(logits, episode.support.labels[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            pairs = zip(adapted.parameters(), network.parameters(), strict=True)
            total = summed(total, [moved - old for moved, old in pairs])
    return in_our_order(total or [], 1 / len(episodes))


def by_hand_fomaml(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    total = None
    for episode in episodes:
        adapted = copy.deepcopy(network)
        optimiser = torch.optim.SGD(adapted.parameters(), lr=LR)
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss_of(adapted, episode.support).backward()
            optimiser.step()
        optimiser.zero_grad()
        loss_of(adapted, episode.query).backward()
        total = summed(total, [leaf.grad for leaf in adapted.parameters()])
    return in_our_order(total or [], -1 / len(episodes))


def by_hand_maml(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    total = None
    names = [name for name, _ in network.named_parameters()]
    for episode in episodes:
        start = [leaf.detach().requires_grad_() for leaf in network.parameters()]

        def at(leaves: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
            named = dict(zip(names, leaves, strict=True))
            return lambda images: torch.func.functional_call(network, named, (images,))

        phi = start
        for _ in range(STEPS):
            gradients = torch.autograd.grad(
                loss_of(at(phi), episode.support), phi, create_graph=True
            )
            phi = [leaf - LR * gradient for leaf, gradient in zip(phi, gradients, strict=True)]
        total = summed(total, list(torch.autograd.grad(loss_of(at(phi), episode.query), start)))
    return in_our_order(total or [], -1 / len(episodes))


def by_higher(network: nn.Sequential, episodes: list[Episode], *, second_order: bool) -> Gradient:
    import higher

    total = None
    inner = torch.optim.SGD(network.parameters(), lr=LR)
    for episode in episodes:
        with higher.innerloop_ctx(
            network, inner, copy_initial_weights=False, track_higher_grads=second_order
        ) as (adapted, optimiser):
            for _ in range(STEPS):
                optimiser.step(loss_of(adapted, episode.support))
            loss = loss_of(adapted, episode.query)
            where = adapted.parameters(time=0 if second_order else -1)
            total = summed(total, list(torch.autograd.grad(loss, list(where))))
    return in_our_order(total or [], -1 / len(episodes))


def by_torchopt(network: nn.Sequential, episodes: list[Episode]) -> Gradient:
    import torchopt

    total = None
    inner = torchopt.MetaSGD(network, lr=LR)
    start = list(network.parameters())
    kept = torchopt.extract_state_dict(network, by="reference")
    kept_inner = torchopt.extract_state_dict(inner, by="reference")
    for episode in episodes:
        for _ in range(STEPS):
            inner.step(loss_of(network, episode.support))
        loss = loss_of(network, episode.query)
        total = summed(total, list(torch.autograd.grad(loss, start)))
        torchopt.recover_state_dict(network, kept)
        torchopt.recover_state_dict(inner, kept_inner)
    return in_our_order(total or [], -1 / len(episodes))


def peers(case: Case, body: Body, episodes: list[Episode]) -> dict[str, Work]:
    """Return who else does this work here."""
    by_hand = {
        "prototypical": by_hand_prototypical,
        "reptile": by_hand_reptile,
        "fomaml": by_hand_fomaml,
        "maml": by_hand_maml,
    }[case.learner]
    own = plain_network(case, body)
    found: dict[str, Work] = {"by hand": lambda: by_hand(own, episodes)}
    if case.learner in ("fomaml", "maml") and importlib.util.find_spec("higher"):
        second, its = case.learner == "maml", plain_network(case, body)
        found["higher"] = lambda: by_higher(its, episodes, second_order=second)
    if case.learner == "maml" and importlib.util.find_spec("torchopt"):
        theirs = plain_network(case, body)
        found["torchopt"] = lambda: by_torchopt(theirs, episodes)
    return found
