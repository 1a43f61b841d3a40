"""Which patients of a class are adapted on, and which are asked: enough images on both sides."""

from collections.abc import Mapping

import numpy as np


def two_sides(
    images: Mapping[int, int],
    bound_support: list[int],
    free: list[int],
    bound_query: list[int],
    n_shot: int,
    n_query: int,
) -> tuple[list[int], list[int]] | None:
    """Return the patients of a class on the support and on the query side; None: it cannot be.

    Patients keep their random order where it can be cut in two; else those change places who must.

    Args:
        images: Number of images by patient.
        bound_support: Patients that another class has put on the support side.
        free: The others, in random order.
        bound_query: Patients that another class has put on the query side.
        n_shot: Images that the support side needs.
        n_query: Images that the query side needs.
    """
    order = bound_support + free + bound_query
    cut = _best_cut(
        [images[patient] for patient in order],
        range(len(bound_support), len(bound_support) + len(free) + 1),
        n_shot,
        n_query,
    )
    if cut is not None:
        return order[:cut], order[cut:]
    of_free = [images[patient] for patient in free]
    still_asked = n_query - sum(images[patient] for patient in bound_query)
    chosen = _set_with_enough(
        of_free,
        at_least=n_shot - sum(images[patient] for patient in bound_support),
        at_most=sum(of_free) - max(still_asked, 0),
    )
    if chosen is None:
        return None
    support = [patient for place, patient in enumerate(free) if place in chosen]
    query = [patient for place, patient in enumerate(free) if place not in chosen]
    return bound_support + support, query + bound_query


def can_be_split(counts: list[int], n_shot: int, n_query: int) -> bool:
    """Say whether some set of patients has ``n_shot`` images and the others ``n_query``."""
    most = sum(counts) - n_query
    if max(counts, default=0) <= 1:  # any number of images is some set's
        return most >= n_shot
    return _set_with_enough(counts, at_least=n_shot, at_most=most) is not None


def _best_cut(counts: list[int], cuts: range, n_shot: int, n_query: int) -> int | None:
    """Return how many of the ordered patients go to the support side.

    Both sides must have enough images; among such cuts, the one nearest to sharing the patients
    in the proportion ``n_shot : n_query``.
    """
    wanted = len(counts) * n_shot / (n_shot + n_query)
    images_before = np.concatenate([[0], np.cumsum(counts)])
    enough = [
        cut
        for cut in cuts
        if images_before[cut] >= n_shot and images_before[-1] - images_before[cut] >= n_query
    ]
    return min(enough, key=lambda cut: abs(cut - wanted), default=None)


def _set_with_enough(counts: list[int], *, at_least: int, at_most: int) -> set[int] | None:
    """Return places whose counts add up to a number within bounds, the least that there is."""
    reachable = [1]  # bit s of the i-th: some of the first i add up to s
    for count in counts:
        reachable.append(reachable[-1] | reachable[-1] << count)
    within = range(max(at_least, 0), at_most + 1)
    left = next((total for total in within if reachable[-1] >> total & 1), None)
    if left is None:
        return None
    chosen = set()
    for place in reversed(range(len(counts))):
        if not reachable[place] >> left & 1:
            chosen.add(place)
            left -= counts[place]
    return chosen
