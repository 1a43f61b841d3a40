"""Omniglot as a federation: clients that hold 2 to 5 characters each, which no other client holds.

Studies of personalised federated learning, such as Fallah et al. 2020 (arXiv:2002.07948), give
their users a few of ten classes that all share. Here the characters are a client's own, so that
there is no list of labels that all share, as hospitals that look for different findings have none.
Clients to train on have characters of the first 1,200; new clients have characters of the last 423,
which nobody trained on. Characters are not turned here.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from metaward.episodes import Episode
from metaward.errors import DataError
from metaward.tasks import Task
from omniglot.characters import Characters
from omniglot.episodes import episode_of
from omniglot.training import TaskSource

FEWEST, MOST = 2, 5
"""Characters of a client."""
CLIENTS_SEED = 1_623
"""Of the clients, which are the same for every learner and every seed of training."""


def federation(
    characters: Characters, cut: int, *, training: int, validation: int, new: int
) -> tuple[list[Task], list[Task], list[Task]]:
    """Return clients to train on, clients to choose settings with, and new clients.

    The first two share no character, and are of the same ``cut`` characters; new clients are of
    the others.

    Raises:
        DataError: There are too few characters.
    """
    images = characters.images
    known = drawn_clients(images[:cut], training + validation, CLIENTS_SEED)
    return known[:training], known[training:], drawn_clients(images[cut:], new, CLIENTS_SEED + 1)


def drawn_clients(images: NDArray[np.uint8], n_clients: int, seed: int) -> list[Task]:
    """Return clients, each with characters of its own and all their drawings.

    Args:
        images: (n_characters, n_drawers, 28, 28) uint8.
        n_clients: How many.
        seed: Of the draw.

    Raises:
        DataError: There are fewer characters than the clients need.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    n_ways = rng.integers(FEWEST, MOST + 1, n_clients)
    ends = np.cumsum(n_ways)
    if n_clients and ends[-1] > len(images):
        raise DataError(
            f"{len(images)} characters",
            expected=f"{ends[-1]} for {n_clients} clients",
            where="Omniglot",
            next_step="Ask for fewer clients.",
        )
    return [
        client_of(images[order[end - n_way : end]], f"client-{number}")
        for number, (n_way, end) in enumerate(zip(n_ways, ends, strict=True))
    ]


def client_of(images: NDArray[np.uint8], name: str) -> Task:
    """Return (n_way, n_drawers, 28, 28) drawings as a client's task; each is of another patient."""
    n_way, n_drawers = images.shape[:2]
    pictures = images.reshape(-1, 1, *images.shape[2:]).astype(np.float32) / np.float32(255)
    return Task(
        site=name,
        images=pictures,
        labels=np.repeat(np.arange(n_way), n_drawers),
        patients=np.arange(len(pictures)),
        label_names=tuple(map(str, range(n_way))),
    )


def some_clients(clients: Sequence[Task]) -> TaskSource:
    """Return a source of clients: in each round different ones, all equally often on average."""

    def tasks(rng: np.random.Generator) -> Iterator[Task]:
        return (clients[number] for number in rng.permutation(len(clients)))

    return tasks


def client_episode(client: Task, n_shot: int, n_query: int, *, seed: Sequence[int]) -> Episode:
    """Return an episode of all characters of a client, its support and query disjoint."""
    rng = np.random.default_rng(seed)
    support, query = [], []
    for label in range(len(client.label_names)):
        drawings = client.images[client.labels == label, 0]
        order = rng.permutation(len(drawings))
        support.append(drawings[order[:n_shot]])
        query.append(drawings[order[n_shot : n_shot + n_query]])
    return episode_of(support, query)
