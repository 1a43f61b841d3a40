"""Which nodes a round asks."""

from collections import Counter

import pytest

from metaward_server.sampling import sample_nodes


@pytest.mark.parametrize("count", [0, 5, 9])
def test_zero_or_more_than_there_are_asks_all(count: int) -> None:
    assert sample_nodes([3, 1, 2, 5, 4], count=count, seed=0, round_index=0) == [1, 2, 3, 4, 5]


def test_a_sample_has_the_size_asked_for_and_no_node_twice() -> None:
    sample = sample_nodes(range(100), count=10, seed=0, round_index=0)
    assert len(set(sample)) == 10


def test_numbers_of_64_bits_as_flower_gives_them_are_asked_to_the_last_digit() -> None:
    nodes = [5, 1234567890123456789, 2**63 + 199, 2**64 - 615]
    for round_index in range(20):
        assert set(sample_nodes(nodes, count=2, seed=0, round_index=round_index)) <= set(nodes)


def test_the_order_in_which_nodes_are_known_does_not_matter() -> None:
    ways = [range(50), reversed(range(50))]
    assert len({tuple(sample_nodes(way, count=7, seed=1, round_index=3)) for way in ways}) == 1


def test_seed_and_round_decide_the_sample() -> None:
    def draw(seed: int, round_index: int) -> list[int]:
        return sample_nodes(range(1000), count=20, seed=seed, round_index=round_index)

    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(seed, index)) for seed in range(5) for index in range(5)}) == 25


def test_over_many_rounds_every_node_has_its_turn_equally_often() -> None:
    turns = Counter(
        node for r in range(2000) for node in sample_nodes(range(8), count=2, seed=0, round_index=r)
    )
    assert all(430 < turns[node] < 570 for node in range(8))  # 500, sd 19


def test_no_node_is_asked_twice_in_a_round() -> None:
    for round_index in range(50):
        asked = sample_nodes(range(10), count=6, seed=1, round_index=round_index)
        assert len(set(asked)) == 6
