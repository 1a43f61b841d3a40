"""Hallucination: prototypes of a few real features and of some that a generator makes from them.

Wang, Girshick, Hebert and Hariharan 2018, arXiv:1801.05401, section 3: a generator G takes a real
feature and noise and gives another feature of the same class; it is trained through the classifier
that its features help to make. Of a class k with K support images x_i, in n = n_generated noises

    g_kj = mean over i of G(f(x_i), e_j),     e_j ~ N(0, I),     j = 1 .. n
    c_k = ( sum over i of f(x_i) + sum over j of g_kj ) / (K + n)
    L_c = mean over the query of -log p(y | x),     p as in metaward.meta.prototypical, by c

A conditional discriminator D (Goodfellow et al. 2014, arXiv:1406.2661, with their section 3's other
loss for the generator; the condition after Mirza and Osindero 2014, arXiv:1411.1784) sees a feature
and the class's real prototype s_k = mean over i of f(x_i), and says whether the feature is a query
image's or a generated one:

    L_1 = L_c + w mean over i, j of -log D(G(f(x_i), e_j), s_y),        w = adversarial_weight
    L_2 = mean over the query of -log D(f(x), s_y)
        + mean over i, j of -log(1 - D(G(f(x_i), e_j), s_y)),           f and G held still

    delta = - grad L_1 on the body's leaves and G's,  - grad L_2 on D's

So one delta holds a step of both players: simultaneous gradient descent-ascent under whatever outer
optimiser there is. With n = 0 there are no own leaves, and body gradient and classifier are those
of a prototypical network, bit for bit; with w = 0 there is no discriminator.

A new site takes prototypes c_k with noises that are always the same. A delta is a direction to add.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.learner_settings import HallucinationSettings
from metaward.meta.classifier import Classifier, kept_head
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.head import Head, prototype_head, prototypes
from metaward.meta.learner import Learner, LocalResult, mean_result, tracked
from metaward.models.body import Body
from metaward.models.build import seeded
from metaward.tasks import Task
from metaward.theta import OWN, own_leaves, own_of_module

GENERATOR, DISCRIMINATOR = "generator.", "discriminator."
SEED_AT_A_NEW_SITE = 0


class Generator(nn.Module):
    """G(z, e) = relu(z + V relu(U (z, e))), a copy of z at the start (V = 0).

    Features of a body are not negative, and those that are made of them are not either. Wang et al.
    start three layers from blocks of identities, which copies too.
    """

    def __init__(self, features: int, latent_size: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(features + latent_size, hidden)
        self.second = nn.Linear(hidden, features)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, features: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return (n, n_noises, features) from (n, features) and (n_noises, latent_size)."""
        n, n_noises = len(features), len(noise)
        seeds = features[:, None].expand(n, n_noises, -1)
        seen = torch.cat([seeds, noise[None].expand(n, n_noises, -1)], dim=2)
        return F.relu(seeds + self.second(F.relu(self.first(seen))))


class Discriminator(nn.Module):
    """The logit that a feature is real, given the prototype of its class."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * features, hidden)
        self.second = nn.Linear(hidden, 1)

    def forward(self, features: torch.Tensor, prototype: torch.Tensor) -> torch.Tensor:
        """Return (n,) from two of (n, features)."""
        seen = torch.cat([features, prototype], dim=1)
        logit: torch.Tensor = self.second(F.relu(self.first(seen)))[:, 0]
        return logit


@dataclass(frozen=True)
class Losses:
    """What the two players of an episode have to lose.

    Attributes:
        classification: L_c.
        first: L_1, of body and generator.
        second: L_2, of the discriminator; None without one.
    """

    classification: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor | None


def task_delta(
    body: Body,
    theta: Tensors,
    episode: Episode,
    noise: torch.Tensor,
    settings: HallucinationSettings,
) -> LocalResult:
    """Return minus each player's gradient on its own leaves, a direction to ADD to theta.

    Args:
        body: The network before the classifier.
        theta: The body's leaves and both players'.
        episode: Support and query.
        noise: (n_generated, latent_size), standard normal.
        settings: The learner's.
    """
    leaves = tracked(theta)
    losses = players_losses(body, leaves, episode, noise, settings)
    of_second = [name for name in leaves if name.startswith(OWN + DISCRIMINATOR)]
    of_first = [name for name in leaves if name not in of_second]
    gradients = _gradients(losses.first, leaves, of_first)
    if losses.second is not None:
        gradients |= _gradients(losses.second, leaves, of_second)
    delta = {name: -gradients[name] for name in theta}
    return LocalResult(delta, float(losses.classification.detach()))


def players_losses(
    body: Body,
    theta: Tensors,
    episode: Episode,
    noise: torch.Tensor,
    settings: HallucinationSettings,
) -> Losses:
    """Return the losses of an episode; see :func:`task_delta` for the arguments."""
    support, query = episode.support, episode.query
    features = body.apply_with(theta, torch.cat([support.images, query.images]))
    n_support = len(support.labels)
    real, asked = features[:n_support], features[n_support:]
    generated = hallucinate(theta, real, noise, settings)
    head = hallucinated_head(real, generated, support)
    classification = F.cross_entropy(head(asked), query.labels)
    if not settings.has_discriminator:
        return Losses(classification, classification, None)

    prototype = prototypes(real, support.labels, support.n_way)
    of_generated = prototype[support.labels].repeat_interleave(len(noise), dim=0)
    made = generated.flatten(0, 1)
    fooled = F.softplus(-_says_real(theta, made, of_generated, settings)).mean()
    says_of_real = _says_real(theta, asked.detach(), prototype[query.labels].detach(), settings)
    says_of_made = _says_real(theta, made.detach(), of_generated.detach(), settings)
    return Losses(
        classification,
        classification + settings.adversarial_weight * fooled,
        F.softplus(-says_of_real).mean() + F.softplus(says_of_made).mean(),
    )


def hallucinate(
    theta: Tensors, features: torch.Tensor, noise: torch.Tensor, settings: HallucinationSettings
) -> torch.Tensor:
    """Return (n, n_generated, features): what is made of each feature with each noise."""
    if not settings.n_generated:
        return features.new_zeros(len(features), 0, features.shape[1])
    with torch.device("meta"):  # its own weights are not used, and not drawn
        network = Generator(features.shape[1], settings.latent_size, settings.hidden)
    made: torch.Tensor = functional_call(network, _part(theta, GENERATOR), (features, noise))
    return made


def hallucinated_head(real: torch.Tensor, generated: torch.Tensor, support: Examples) -> Head:
    """Return the prototypical head of real and generated features.

    The paper draws the support image that each generated feature starts from. The mean over all of
    them is what that draw gives on average, and does not depend on the order of the support.

    Args:
        real: (n, features) of the support.
        generated: (n, n_generated, features).
        support: Labels and number of classes.
    """
    n_way, n_generated = support.n_way, generated.shape[1]
    per_class = prototypes(generated.flatten(1), support.labels, n_way)
    made = per_class.reshape(n_way * n_generated, real.shape[1])
    labels = torch.arange(n_way, device=real.device).repeat_interleave(n_generated)
    return prototype_head(torch.cat([real, made]), torch.cat([support.labels, labels]), n_way)


@dataclass(frozen=True)
class Hallucination(Learner):
    """The learner: episodes while meta-training, real and generated class means at a new site."""

    settings: HallucinationSettings

    def own_parameters(self, body: Body, seed: int) -> Tensors:
        """Return both players' leaves; see :class:`metaward.meta.learner.Learner`."""
        s, players = self.settings, nn.ModuleDict()
        with seeded(seed):
            if s.n_generated:
                players["generator"] = Generator(body.features, s.latent_size, s.hidden)
            if s.has_discriminator:
                players["discriminator"] = Discriminator(body.features, s.hidden)
            return own_of_module(players)

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes, each with its noise.

        The noise is drawn after them: they are the same whatever is generated.
        """
        s = self.settings
        episodes = list(draw_episodes(task, s, rng))
        drawn = rng.standard_normal((len(episodes), s.n_generated, s.latent_size), np.float32)
        return mean_result(
            task_delta(body, theta, episode, noise, s)
            for episode, noise in zip(
                episodes, torch.from_numpy(drawn).to(task.device), strict=True
            )
        )

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Take class means; see :class:`metaward.meta.learner.Learner`."""
        support.require_every_class()
        s, generator = self.settings, torch.Generator().manual_seed(SEED_AT_A_NEW_SITE)
        noise = torch.randn(s.n_generated, s.latent_size, generator=generator)
        with torch.no_grad():
            real = body.apply_with(theta, support.images)
            head = hallucinated_head(real, hallucinate(theta, real, noise.to(real), s), support)
        return self.classifier(body, theta, kept_head(head))


def _says_real(
    theta: Tensors, features: torch.Tensor, prototype: torch.Tensor, settings: HallucinationSettings
) -> torch.Tensor:
    with torch.device("meta"):
        network = Discriminator(features.shape[1], settings.hidden)
    leaves = _part(theta, DISCRIMINATOR)
    says: torch.Tensor = functional_call(network, leaves, (features, prototype))
    return says


def _part(theta: Tensors, prefix: str) -> Tensors:
    own = own_leaves(theta)
    return {k.removeprefix(prefix): leaf for k, leaf in own.items() if k.startswith(prefix)}


def _gradients(loss: torch.Tensor, leaves: Tensors, names: list[str]) -> Tensors:
    gradients = torch.autograd.grad(loss, [leaves[name] for name in names], retain_graph=True)
    return dict(zip(names, gradients, strict=True))
