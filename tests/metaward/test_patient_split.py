"""A class's patients on two sides: enough images on both, and shared out as shots and queries."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaward.patient_split import can_be_split, two_sides

FEW = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("n_shot", "n_query", "support"), [(1, 2, [0, 1]), (2, 1, [0, 1, 2, 3]), (1, 1, [0, 1, 2])]
)
def test_patients_are_shared_out_as_shots_are_to_queries(
    n_shot: int, n_query: int, support: list[int]
) -> None:
    images = dict.fromkeys(range(6), 3)
    sides = two_sides(images, [], list(range(6)), [], n_shot, n_query)
    assert sides == (support, [number for number in range(6) if number not in support])


def test_who_is_bound_stays_on_that_side_and_the_rest_change_places_if_need_be() -> None:
    images = {0: 1, 1: 1, 2: 8, 3: 1}
    assert two_sides(images, [3], [2, 1], [0], n_shot=2, n_query=9) == ([3, 1], [2, 0])


def test_as_many_images_as_are_asked_for_are_enough_on_either_side() -> None:
    assert two_sides({0: 1, 1: 5, 2: 5}, [], [0, 1, 2], [], n_shot=1, n_query=5) == ([0], [1, 2])
    assert two_sides({0: 5, 1: 5, 2: 1}, [], [0, 1, 2], [], n_shot=5, n_query=1) == ([0, 1], [2])


@given(FEW, st.integers(1, 8), st.integers(1, 8))
def test_there_are_two_sides_whenever_any_set_of_patients_makes_them(
    counts: list[int], n_shot: int, n_query: int
) -> None:
    everyone = range(len(counts))
    sets = chain.from_iterable(combinations(everyone, size) for size in everyone)
    totals = [sum(counts[number] for number in chosen) for chosen in sets]
    possible = any(n_shot <= total <= sum(counts) - n_query for total in totals)
    assert can_be_split(counts, n_shot, n_query) == possible
    sides = two_sides(dict(enumerate(counts)), [], list(everyone), [], n_shot, n_query)
    assert (sides is not None) == possible
    if sides is not None:
        support, query = sides
        assert sorted(support + query) == list(everyone)
        assert sum(counts[number] for number in support) >= n_shot
        assert sum(counts[number] for number in query) >= n_query
