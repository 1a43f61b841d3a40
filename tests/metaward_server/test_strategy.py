"""What theta becomes in a round: the outer step of the rule's mean, whatever the order."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from metaward.arrays import Arrays
from metaward.errors import FederationError
from metaward.study import (
    AdamSettings,
    AggregationSettings,
    GeometricMedianSettings,
    KrumSettings,
    MedianSettings,
    MultiKrumSettings,
    SgdSettings,
    Study,
    TrimmedMeanSettings,
)
from metaward.wire import encode_update
from played_studies import STUDY, Node, bits, study_with, with_delta


def test_one_round_of_sgd_adds_the_mean_delta(
    play: Any, scripted_grid: Any, honest_update_of: Any, theta: Arrays
) -> None:
    def node(value: float) -> Node:
        def answer(message: Message) -> RecordDict:
            update = honest_update_of(message)
            delta = {n: np.full_like(leaf, value) for n, leaf in update.delta.items()}
            return encode_update(dataclasses.replace(update, delta=delta))

        return answer

    study = STUDY.model_copy(update={"rounds": 1, "outer": SgdSettings(step_size=0.5)})
    final, events = play(scripted_grid({1: node(1.0), 2: node(3.0)}), study)
    for name, leaf in theta.items():
        np.testing.assert_allclose(final[name], leaf + 0.5 * 2.0, rtol=1e-6)
    assert events[0].delta_norm == pytest.approx(2 * np.sqrt(7))  # seven numbers, all 2


@pytest.mark.parametrize("outer", [SgdSettings(step_size=1e300), AdamSettings(step_size=1e300)])
def test_a_step_that_ends_at_no_number_ends_the_study(
    play: Any,
    scripted_grid: Any,
    honest_node: Node,
    outer: SgdSettings | AdamSettings,
) -> None:
    study = STUDY.model_copy(update={"rounds": 1, "outer": outer})
    with pytest.raises(FederationError, match=r"round 0: .*not finite.*step_size 1e\+300"):
        play(scripted_grid({1: honest_node, 2: honest_node}), study)


def test_permuting_the_replies_changes_no_bit(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    nodes = dict.fromkeys(range(1, 5), honest_node)
    finals = [
        bits(
            play(scripted_grid(nodes, reorder=lambda replies, o=order: [replies[i] for i in o]))[0]
        )
        for order in itertools.permutations(range(4))
    ]
    assert all(final == finals[0] for final in finals)


def test_the_numbers_of_the_nodes_change_no_bit(
    play: Any, scripted_grid: Any, honest_update_of: Any
) -> None:
    def as_node(number: int) -> Node:
        def answer(message: Message) -> RecordDict:
            message.metadata.dst_node_id, real = number, message.metadata.dst_node_id
            update = honest_update_of(message)
            message.metadata.dst_node_id = real
            return encode_update(update)

        return answer

    low = play(scripted_grid({n: as_node(n) for n in (1, 2, 3)}))[0]
    high = play(scripted_grid({90 - n: as_node(n) for n in (1, 2, 3)}))[0]
    assert bits(low) == bits(high)


def of_rule(aggregation: AggregationSettings, rounds: int = 3, **settings: Any) -> Study:
    return study_with(rounds, **settings).model_copy(update={"aggregation": aggregation})


ROBUST: list[AggregationSettings] = [
    MedianSettings(),
    TrimmedMeanSettings(fraction=0.3),
    KrumSettings(hostile=2),
    MultiKrumSettings(hostile=2),
    GeometricMedianSettings(),
]


def test_a_study_asks_its_own_rule_for_the_delta(
    play: Any, scripted_grid: Any, honest_update_of: Any, theta: Arrays
) -> None:
    def sends(value: float) -> Node:
        return with_delta(
            honest_update_of, lambda d: {n: np.full_like(leaf, value) for n, leaf in d.items()}
        )

    study = of_rule(MedianSettings(), rounds=1).model_copy(update={"outer": SgdSettings()})
    final, _ = play(scripted_grid({1: sends(1.0), 2: sends(3.0), 3: sends(200.0)}), study)
    for name, leaf in theta.items():
        np.testing.assert_allclose(final[name], leaf + 3.0, rtol=1e-6)


@pytest.mark.parametrize("rule", ROBUST, ids=lambda rule: rule.name)
def test_under_every_rule_the_order_of_replies_and_the_numbers_of_nodes_change_no_bit(
    rule: AggregationSettings, play: Any, scripted_grid: Any, honest_update_of: Any
) -> None:
    def as_node(number: int) -> Node:
        def answer(message: Message) -> RecordDict:
            rng = np.random.default_rng([number, int(message.metadata.group_id)])
            update = honest_update_of(message)
            delta = {n: rng.standard_normal(d.shape).astype("f4") for n, d in update.delta.items()}
            return encode_update(dataclasses.replace(update, delta=delta))

        return answer

    study = of_rule(rule)
    low = play(scripted_grid({n: as_node(n) for n in range(1, 8)}), study)[0]
    turned = scripted_grid(
        {90 - n: as_node(n) for n in range(1, 8)}, reorder=lambda replies: replies[::-1]
    )
    assert bits(play(turned, study)[0]) == bits(low)


def test_a_round_with_fewer_updates_than_the_rule_needs_is_void(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    def absent_in_round_1(message: Message) -> RecordDict | Error | None:
        return None if message.metadata.group_id == "2" else honest_node(message)

    nodes = dict.fromkeys(range(1, 5), honest_node) | {5: absent_in_round_1}
    _, events = play(scripted_grid(nodes), of_rule(KrumSettings(hostile=1)))
    assert [(event.admitted, event.void) for event in events] == [(5, False), (4, True), (5, False)]


def test_a_rule_that_can_never_work_with_the_sites_that_are_there_is_refused_before_a_round(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    grid = scripted_grid(dict.fromkeys(range(1, 7), honest_node))
    with pytest.raises(
        FederationError,
        match=r"6 sites are connected; expected at least 7 \(aggregation krum\); Connect more",
    ):
        play(grid, of_rule(KrumSettings(hostile=2)))
    assert not grid.sent
