"""When a round is void, whom a study waits for, and when it ends."""

import itertools
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from metaward.errors import FederationError
from metaward.wire import SiteRefusal
from played_studies import Node, study_with


def test_below_the_quorum_a_round_is_void_and_theta_stays(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    absent_in_round_1 = scripted_grid(
        {1: honest_node, 2: lambda m: None if m.metadata.group_id == "2" else honest_node(m)}
    )
    final, events = play(absent_in_round_1, study_with(quorum=2))
    assert [event.void for event in events] == [False, True, False]
    assert events[1].delta_norm == 0
    assert [event.round_index for event in events] == [0, 1, 2]
    assert np.isfinite(final["w"]).all()


def test_void_rounds_in_a_row_end_the_study_with_the_reasons(play: Any, scripted_grid: Any) -> None:
    grid = scripted_grid({1: lambda _: None, 2: lambda _: Error(int(SiteRefusal.DATA))})
    with pytest.raises(FederationError, match=r"2 void rounds.*no-reply: 1, site-data: 1"):
        play(grid, study_with(rounds=9, max_void_rounds=2))
    assert len(grid.timeouts) == 2


def test_a_round_that_counts_starts_the_count_of_void_rounds_anew(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    grid = scripted_grid({1: lambda m: honest_node(m) if m.metadata.group_id in "36" else None})
    _, events = play(grid, study_with(rounds=7, max_void_rounds=3))
    assert [event.void for event in events] == [True, True, False, True, True, False, True]


def test_every_wait_has_the_deadline_of_the_study(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    grid = scripted_grid({1: honest_node})
    play(grid, study_with(deadline_s=12.5))
    assert grid.timeouts == [12.5] * 3
    assert {message.metadata.ttl for message in grid.sent} == {12.5}


def test_only_the_sampled_nodes_are_asked(play: Any, scripted_grid: Any, honest_node: Node) -> None:
    grid = scripted_grid(dict.fromkeys(range(1, 10), honest_node))
    _, events = play(grid, study_with(rounds=6, sites_per_round=2))
    assert [event.asked for event in events] == [2] * 6
    assert len({message.metadata.dst_node_id for message in grid.sent}) > 4


def test_without_a_quorum_of_nodes_the_study_does_not_begin(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    ticks = itertools.count(step=1.0)
    with pytest.raises(FederationError, match="1 sites are connected; expected at least 2"):
        play(
            scripted_grid({1: honest_node}),
            study_with(quorum=2, deadline_s=3.0),
            n_nodes=3,
            clock=lambda: next(ticks),
        )


def test_a_round_waits_for_a_node_that_is_away_rather_than_be_void(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    grid = scripted_grid({1: honest_node, 2: honest_node})
    here = iter([[1, 2], [1], [1], [1]])
    grid.get_node_ids = lambda: next(here, [1, 2])
    _, events = play(grid, study_with(rounds=2, quorum=2), n_nodes=2)
    assert [(event.asked, event.void) for event in events] == [(2, False), (2, False)]


def test_a_node_that_stays_away_costs_a_round_one_deadline(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    ticks = itertools.count(step=1.0)
    grid = scripted_grid({1: honest_node, 2: honest_node})
    here = iter([[1, 2]])
    grid.get_node_ids = lambda: next(here, [1])
    with pytest.raises(FederationError, match="void rounds in a row"):
        play(grid, study_with(quorum=2, deadline_s=3.0), n_nodes=2, clock=lambda: next(ticks))


def test_the_time_of_a_failing_superlink_does_not_count_as_the_hospitals(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    clock, here = [0.0], iter([[], [1]])
    grid = scripted_grid({1: honest_node})

    def asked_again_for_100_seconds() -> list[int]:
        clock[0] += 100.0
        return next(here, [1])

    grid.get_node_ids = asked_again_for_100_seconds
    _, events = play(grid, study_with(quorum=1, deadline_s=3.0), clock=lambda: clock[0])
    assert [event.void for event in events] == [False] * 3


def test_a_round_says_how_long_it_took_and_how_much_of_it_was_waiting(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    clock = [0.0]

    def slow(message: Message) -> RecordDict | Error | None:
        clock[0] += 5.0
        return honest_node(message)

    def tick() -> float:
        clock[0] += 0.25
        return clock[0]

    _, events = play(scripted_grid({1: slow}), clock=tick)
    assert events[0].seconds == pytest.approx(5.75)
    assert events[0].overhead_s == pytest.approx(0.5)


def test_a_round_says_when_it_closed(play: Any, scripted_grid: Any, honest_node: Node) -> None:
    times = iter([1000.0, 2000.0, 3000.0])
    _, events = play(scripted_grid({1: honest_node}), study_with(3), now=lambda: next(times))
    assert [event.closed_at for event in events] == [1000.0, 2000.0, 3000.0]
