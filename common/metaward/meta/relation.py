"""Relation networks: a network that is learned too says how alike a class and a query are.

Sung et al. 2018, arXiv:1711.06025, equations 1 and 2; F(x) is the body's map, not its features:

    c_k = sum of F(s_i) over the support images s_i of class k
    r_k(x) = sigmoid( g( c_k, F(x) one above the other ) )
    L = mean over the query and all classes k of (r_k(x) - [y = k])^2

    delta = - mean over episodes of grad_theta L

That is ``loss: squared`` with ``class_map: sum``. By default c_k is the mean, and

    L = mean over the query of -log( softmax over k of g( c_k, F(x) ) )_y

Of N relations one is true. The answer 1 / N for all of them has a squared loss that is hard to
leave; a softmax takes no notice of what all of them have in common, and neither does ``loss:
margin``, a hinge on the g( c_k, F(x) ) (metaward.meta.episode_loss).

g is two blocks of 3x3 convolution, GroupNorm, ReLU and 2x2 max-pool, and two linear layers with 8
hidden numbers between them. The paper has BatchNorm in the place of GroupNorm, which would mix
patients. One group, since maps are small: after a pool a channel may be a single pixel, which
several groups could leave next to nothing to norm. A map of a single pixel is not pooled.

The paper sums over a class's images (section 3.2), so a class with more of them has a larger map:
meant for as many as in training. With a mean their number does not count.

The logit of a class is g's output, in front of the sigmoid. After a training with the squared loss
too: if the r_k were the probabilities of independent events, its softmax would be what they say
once it is known that exactly one holds:

    P(k alone) ~ r_k prod_{j != k} (1 - r_j) ~ r_k / (1 - r_k) = exp(logit_k)

There is no inner loop. A delta is a direction to add.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import RelationSettings
from metaward.meta.classifier import Classifier
from metaward.meta.episode_loss import query_loss
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.learner import Learner, LocalResult, downhill, mean_result, tracked
from metaward.models.body import Body, in_fastest_layout
from metaward.models.build import seeded
from metaward.tasks import Task
from metaward.theta import own_leaves, own_of_module

HIDDEN = 8
"""Numbers between the two linear layers, as in the paper."""


class RelationNetwork(nn.Module):
    """From the maps of a class and a query to one number: g in front of its sigmoid.

    Args:
        channels: Of one map.
        side: Pixels of its sides.
        filters: Channels of g's own maps.
        offset: Whether a number is added to every score; only the squared loss would see it.
    """

    def __init__(self, channels: int, side: int, filters: int, *, offset: bool) -> None:
        super().__init__()
        fans = (2 * channels, filters)
        self.convs = nn.ModuleList(nn.Conv2d(n, filters, 3, padding=1, bias=False) for n in fans)
        self.norms = nn.ModuleList(nn.GroupNorm(1, filters) for _ in fans)
        for _ in fans:
            side = max(side // 2, 1)
        self.hidden = nn.Linear(filters * side * side, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=offset)

    def forward(self, classes: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Return the number of each query with each class, (n_query, n_way).

        A convolution of two maps one above the other is the sum of one of each: the first is
        computed of n_query + n_way maps, and not of n_query * n_way pairs.

        Args:
            classes: (n_way, channels, side, side).
            asked: (n_query, channels, side, side).
        """
        upper, lower = cast(nn.Conv2d, self.convs[0]).weight.tensor_split(2, dim=1)
        of_classes = F.conv2d(in_fastest_layout(classes), upper, padding=1)
        of_asked = F.conv2d(in_fastest_layout(asked), lower, padding=1)
        pairs = (of_asked[:, None] + of_classes).flatten(0, 1)
        maps = self._block(self.norms[0], pairs)
        maps = self._block(self.norms[1], self.convs[1](maps))
        scores: torch.Tensor = self.score(F.relu(self.hidden(maps.flatten(1))))
        return scores.view(len(asked), len(classes))

    def _block(self, norm: nn.Module, maps: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = norm(maps)
        pooled = F.max_pool2d(normed, 2) if normed.shape[2] > 1 else normed
        return F.relu(pooled)


def task_delta(
    body: Body, theta: Tensors, episode: Episode, settings: RelationSettings
) -> LocalResult:
    """Return minus the gradient of one episode's query loss, a direction to ADD to theta."""
    leaves = tracked(theta)
    support, query = episode.support, episode.query
    maps = body.maps_with(leaves, torch.cat([support.images, query.images]))
    seen, asked = maps.tensor_split([len(support.labels)])
    scores = logits(leaves, class_maps(seen, support, settings), asked, settings)
    if settings.loss == "squared":
        true = F.one_hot(query.labels, query.n_way).to(scores.dtype)
        return downhill(leaves, F.mse_loss(torch.sigmoid(scores), true))
    return downhill(leaves, query_loss(scores, query.labels, settings.loss, settings.margin))


def class_maps(maps: torch.Tensor, support: Examples, settings: RelationSettings) -> torch.Tensor:
    """Return the map of each class, (n_way, channels, side, side); order of examples is free."""
    membership = F.one_hot(support.labels, support.n_way).to(maps.dtype)
    if settings.class_map == "mean":
        membership = membership / membership.sum(dim=0)
    return torch.einsum("nk,nchw->kchw", membership, maps)


def logits(
    theta: Tensors, classes: torch.Tensor, asked: torch.Tensor, settings: RelationSettings
) -> torch.Tensor:
    """Return g of each query with each class, (n_query, n_way), in front of the sigmoid.

    Args:
        theta: Meta-parameters, for the learner's own leaves.
        classes: (n_way, channels, side, side).
        asked: (n_query, channels, side, side).
        settings: Of the learner.
    """
    _, channels, side, _ = asked.shape
    with torch.device("meta"):  # the leaves are given: the module's own need no memory
        network = _network(channels, side, settings)
    scores: torch.Tensor = functional_call(network, own_leaves(theta), (classes, asked))
    return scores


def _network(channels: int, side: int, settings: RelationSettings) -> RelationNetwork:
    return RelationNetwork(channels, side, settings.filters, offset=settings.loss == "squared")


@dataclass(frozen=True)
class Relation(Learner):
    """The learner: episodes while meta-training, a map for each class at a new site."""

    settings: RelationSettings

    def own_parameters(self, body: Body, seed: int) -> Tensors:
        """Return the leaves of g; what is added to its scores says that each class is as likely.

        Of n_way relations one is true. From an offset of 0 a squared loss first moves all of them
        together, from a half to 1 / n_way, and on that way units of g may stop answering for good.
        """
        with seeded(seed):
            network = _network(body.map_channels, body.map_side, self.settings)
        if self.settings.loss == "squared":
            nn.init.constant_(network.score.bias, -math.log(self.settings.n_way - 1))
        return own_of_module(network)

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes."""
        episodes = draw_episodes(task, self.settings, rng)
        return mean_result(task_delta(body, theta, episode, self.settings) for episode in episodes)

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Make the map of each class; see :class:`metaward.meta.learner.Learner`."""
        support.require_every_class()
        with torch.no_grad():
            classes = class_maps(body.maps_with(theta, support.images), support, self.settings)
        return self.classifier(body, theta, {"classes": classes})

    def classifier(self, body: Body, theta: Tensors, kept: Tensors) -> Classifier:
        """Return the classifier of kept class maps; see :class:`metaward.meta.learner.Learner`."""

        def answer(images: torch.Tensor) -> torch.Tensor:
            return logits(theta, kept["classes"], body.maps_with(theta, images), self.settings)

        return Classifier(kept, answer)
