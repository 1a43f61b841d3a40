"""Memory-augmented neural network: read the support set as a sequence, and remember it.

Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, arXiv:1605.06065, section 2. An episode
is a sequence of examples. In the paper the network sees at each step an image and the label of the
image before, has to name this one, and is told the answer only at the next step; that is
``labels_come: late``:

    logits_t = network( f(x_t), y_{t-1}; memory of the steps before t ),      y_0 = nothing
    L = mean over all images of -log softmax(logits)[y]

The sequence is the support, in random order. Each query image is then the one next step: the state
after the support is copied for each, so no query knows of another. The paper has one sequence of 50
images and no query. In short sequences with as many images of each class that rewards counting: a
network learns to name the class that is still due, which is worth nothing at a new site
(docs/algorithms.md). Of the copied steps each is as likely to be of any class.

Where the support is given and queries are apart, no support image has to be named, and labels may
stand beside their images. That is ``labels_come: beside``, the default:

    reading:    network( f(x_t), y_t; memory of the steps before t )
    a query:    logits = network( f(x), nothing; memory of the support )
    L = mean over the queries of -log softmax(logits)[y]

What a row of the memory has to hold, an image and its label, comes in one step then; labels that
come late have to be carried to it from the step before (docs/algorithms.md says what that costs).

    L_f = mean over the queries of -log p(y | x),       p as in metaward.meta.prototypical
    delta = - mean over episodes of grad_theta [ L + w L_f ],       w = body_weight

L_f is not the paper's, which has no body but raw pixels.

The network and its memory are in metaward.models.memory. Labels stand for other classes in every
episode so that the weights cannot learn them: an episode's classes are numbered in the order in
which they were drawn at random (metaward.episodes.sample_indices), and y is that number. Theta has
``n_way`` slots for labels; of an episode with fewer classes the first ones are used.

Each time a site draws episodes, they have K support images of a class, K at random from 1 to
``n_shot``. So one theta reads supports of all these lengths, as the paper's reads its sequence from
any beginning.

A new site reads its support once, in an order that depends on the images alone, and asks about each
query image as above. A delta is a direction to add.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Episode, Examples
from metaward.errors import DataError
from metaward.learner_settings import MannSettings
from metaward.meta.classifier import Classifier
from metaward.meta.episodic import draw_episodes, require_episodes
from metaward.meta.head import prototype_head
from metaward.meta.learner import Learner, LocalResult, downhill, tracked
from metaward.models.body import Body
from metaward.models.build import seeded
from metaward.models.memory import MemoryNetwork, MemoryState
from metaward.tasks import Task
from metaward.theta import own_leaves, own_of_module

QUERIES_AT_ONCE = 256
"""Each query has a memory of its own while it is scored: 40 kB with the default settings."""


def task_delta(
    body: Body, theta: Tensors, episodes: Sequence[Episode], settings: MannSettings
) -> LocalResult:
    """Return minus the gradient of the mean loss, a direction to ADD to theta.

    Args:
        body: The network before the memory.
        theta: The body's leaves and the network's.
        episodes: All of one size; the support in the order in which it is read. They are read side
            by side, because a step of many costs about what one of one does; each has a memory of
            its own.
        settings: The learner's.
    """
    leaves = tracked(theta)
    supports, queries = ([getattr(e, side) for e in episodes] for side in ("support", "query"))
    online, read = read_sequences(body, leaves, supports, settings)
    asked = name_next(body, leaves, read, torch.stack([q.images for q in queries]), settings)
    named, of_named = [asked], queries
    if settings.labels_come == "late":
        named, of_named = [online, asked], supports + queries
    labels = torch.cat([side.labels for side in of_named])
    loss = F.cross_entropy(torch.cat([logits.flatten(0, 1) for logits in named]), labels)
    if settings.body_weight:
        loss = loss + settings.body_weight * body_loss(body, leaves, episodes)
    return downhill(leaves, loss)


def body_loss(body: Body, theta: Tensors, episodes: Sequence[Episode]) -> torch.Tensor:
    """Return the mean loss that a prototypical network of this body has in the episodes."""
    losses = []
    for episode in episodes:
        support, query = episode.support, episode.query
        features = body.apply_with(theta, torch.cat([support.images, query.images]))
        n = len(support.labels)
        head = prototype_head(features[:n], support.labels, support.n_way)
        losses.append(F.cross_entropy(head(features[n:]), query.labels))
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class Read:
    """What is known after a batch of sequences has been read.

    Attributes:
        state: After the last images.
        told: (n_sequences, slots), what a next step is told: the labels of the last images,
            one-hot, or nothing, zeros.
        n_way: Number of classes.
    """

    state: MemoryState
    told: torch.Tensor
    n_way: int


def read_sequences(
    body: Body, theta: Tensors, sequences: Sequence[Examples], settings: MannSettings
) -> tuple[torch.Tensor, Read]:
    """Read examples one after the other, and name each; with late labels from those before it.

    Returns:
        Logits (n_sequences, length, n_way), and what is known after the last images.
    """
    labels = torch.stack([sequence.labels for sequence in sequences], dim=1)
    features = body.apply_with(theta, torch.cat([sequence.images for sequence in sequences]))
    features = features.reshape(len(sequences), -1, body.features).transpose(0, 1)
    told = F.one_hot(labels, settings.n_way).to(features.dtype)
    nothing = torch.zeros_like(told[:1])
    late = settings.labels_come == "late"
    told = torch.cat([nothing, told] if late else [told, nothing])
    logits, state = _run(body, theta, settings, torch.cat([features, told[:-1]], dim=2))
    n_way = sequences[0].n_way
    return logits.transpose(0, 1)[:, :, :n_way], Read(state, told[-1], n_way)


def name_next(
    body: Body, theta: Tensors, read: Read, images: torch.Tensor, settings: MannSettings
) -> torch.Tensor:
    """Name the image after a sequence: each of many as if it were the only one.

    Args:
        body: As for :func:`task_delta`.
        theta: Likewise.
        read: What is known of the sequences.
        images: (n_sequences, n_images, channels, height, width).
        settings: The learner's.

    Returns:
        Logits (n_sequences, n_images, n_way).
    """
    n = images.shape[1]
    features = body.apply_with(theta, images.flatten(0, 1))
    inputs = torch.cat([features, read.told.repeat_interleave(n, dim=0)], dim=1)[None]
    logits, _ = _run(body, theta, settings, inputs, read.state.repeated(n))
    return logits[0, :, : read.n_way].reshape(len(read.told), n, read.n_way)


def in_random_order(episode: Episode, rng: np.random.Generator) -> Episode:
    """Return the episode with its support set in random order."""
    order = torch.from_numpy(rng.permutation(len(episode.support.labels)))
    return replace(episode, support=_reordered(episode.support, order))


def reading_order(support: Examples) -> torch.Tensor:
    """Return the order in which a new site reads its support set, (n,) int64.

    By a digest of each image and its label: as good as random, and the same in whatever order the
    images are given.
    """
    digests = [
        hashlib.sha256(image.tobytes() + bytes([label])).digest()
        for image, label in zip(support.images.cpu().numpy(), support.labels.tolist(), strict=True)
    ]
    return torch.tensor(sorted(range(len(digests)), key=digests.__getitem__))


@dataclass(frozen=True)
class Mann(Learner):
    """The learner: sequences while meta-training, one pass over the support at a new site."""

    settings: MannSettings

    def own_parameters(self, body: Body, seed: int) -> Tensors:
        """Return the network's leaves; see :class:`metaward.meta.learner.Learner`."""
        with seeded(seed):
            return own_of_module(_network(body, self.settings))

    def local_delta(
        self, body: Body, theta: Tensors, task: Task, rng: np.random.Generator
    ) -> LocalResult:
        """Return the mean delta over ``settings.episodes`` fresh episodes of one length."""
        n_shot = int(rng.integers(1, self.settings.n_shot, endpoint=True))
        drawn = draw_episodes(task, self.settings.model_copy(update={"n_shot": n_shot}), rng)
        episodes = [in_random_order(episode, rng) for episode in drawn]
        return task_delta(body, theta, episodes, self.settings)

    def require_fit(self, task: Task) -> None:
        """Check that the task gives episodes; see :class:`metaward.meta.learner.Learner`."""
        require_episodes(task, self.settings)

    def adapt(self, body: Body, theta: Tensors, support: Examples) -> Classifier:
        """Read the support set once; see :class:`metaward.meta.learner.Learner`.

        Raises:
            DataError: The support set has more classes than theta has slots for labels, or none of
                the images of one.
        """
        if support.n_way > self.settings.n_way:
            raise DataError(
                f"a support set of {support.n_way} classes",
                expected=f"at most {self.settings.n_way}, the label slots that this model has",
                where="learner mann",
                next_step="Choose fewer classes, or a study with a greater learner.n_way.",
            )
        support.require_every_class()
        with torch.no_grad():
            in_order = _reordered(support, reading_order(support))
            _, read = read_sequences(body, theta, [in_order], self.settings)
        told = read.told[:, : support.n_way]
        return self.classifier(body, theta, asdict(read.state) | {"told": told})

    def classifier(self, body: Body, theta: Tensors, kept: Tensors) -> Classifier:
        """Return the classifier of a kept memory; see :class:`metaward.meta.learner.Learner`."""
        state = MemoryState(**{field.name: kept[field.name] for field in fields(MemoryState)})
        n_way = kept["told"].shape[1]
        told = F.pad(kept["told"], (0, self.settings.n_way - n_way))
        read = Read(state, told, n_way)

        def answer(images: torch.Tensor) -> torch.Tensor:
            parts = torch.split(images, QUERIES_AT_ONCE)
            return torch.cat(
                [name_next(body, theta, read, p[None], self.settings)[0] for p in parts]
            )

        return Classifier(kept, answer)


def _reordered(examples: Examples, order: torch.Tensor) -> Examples:
    return Examples(examples.images[order], examples.labels[order], examples.n_way)


def _network(body: Body, settings: MannSettings) -> MemoryNetwork:
    return MemoryNetwork(
        body.features + settings.n_way,
        settings.n_way,
        hidden=settings.hidden,
        rows=settings.memory_rows,
        width=settings.memory_width,
        heads=settings.read_heads,
        decay=settings.usage_decay,
        strength=settings.key_strength,
    )


def _run(
    body: Body,
    theta: Tensors,
    settings: MannSettings,
    inputs: torch.Tensor,
    state: MemoryState | None = None,
) -> tuple[torch.Tensor, MemoryState]:
    with torch.device("meta"):  # its own weights are not used, and not drawn
        network = _network(body, settings)
    result: tuple[torch.Tensor, MemoryState] = functional_call(
        network, own_leaves(theta), (inputs, state)
    )
    return result
