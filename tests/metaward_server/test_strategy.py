"""Rounds of a study against scripted nodes: what counts, what is refused, when a study ends."""

import dataclasses
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from metaward.arrays import Arrays
from metaward.errors import FederationError
from metaward.privacy_promise import PrivacyPromise
from metaward.progress import RoundEvent
from metaward.study import (
    AdamSettings,
    AggregationSettings,
    GeometricMedianSettings,
    KrumSettings,
    MedianSettings,
    MultiKrumSettings,
    RoundSettings,
    SgdSettings,
    Study,
    TrimmedMeanSettings,
)
from metaward.wire import RAW_FLOAT32, SiteRefusal, Update, encode_update, layout, spec_of
from metaward_server.admission import UNREADABLE_REPLY, Refusal
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.outer_optimizers import initial_state
from metaward_server.rounds_log import RoundsLog
from metaward_server.strategy import MetaStrategy, StudyRecord

STUDY = Study(seed=3, rounds=3, outer=AdamSettings(step_size=0.1))
Node = Callable[[Message], RecordDict | Error | None]


@pytest.fixture
def play(tmp_path: Path, theta: Arrays) -> Callable[..., tuple[Arrays, list[RoundEvent]]]:
    """Play a study from its start on a grid; return the final theta and the events."""
    runs = itertools.count()

    def run(grid: Any, study: Study = STUDY, **extra: Any) -> tuple[Arrays, list[RoundEvent]]:
        folder = tmp_path / str(next(runs))
        folder.mkdir()
        events: list[RoundEvent] = []
        record = StudyRecord(
            CheckpointStore(folder / "checkpoints", study.digest()),
            RoundsLog(folder / "rounds.jsonl"),
            events.append,
        )
        extra = {"n_nodes": 1} | extra
        strategy = MetaStrategy(study, record, **extra)
        progress = strategy.start(grid, Progress(0, theta, initial_state(study.outer, theta)))
        assert progress.next_round == study.rounds
        return progress.theta, events

    return run


def bits(theta: Arrays) -> dict[str, bytes]:
    return {name: leaf.tobytes() for name, leaf in theta.items()}


def study_with(rounds: int = 3, **settings: Any) -> Study:
    return STUDY.model_copy(update={"rounds": rounds, "round": RoundSettings(**settings)})


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


def changed(honest: Callable[[Message], Update], **changes: Any) -> Node:
    return lambda message: encode_update(dataclasses.replace(honest(message), **changes))


def with_delta(honest: Callable[[Message], Update], change: Callable[[Arrays], Arrays]) -> Node:
    def answer(message: Message) -> RecordDict:
        update = honest(message)
        return encode_update(dataclasses.replace(update, delta=change(update.delta)))

    return answer


def first_number(value: float) -> Callable[[Arrays], Arrays]:
    def change(delta: Arrays) -> Arrays:
        delta["w"][0] = value
        return delta

    return change


def with_array(data: bytes, dtype: str = "float32", stype: str = RAW_FLOAT32) -> RecordDict:
    """An update whose seven numbers are as given."""
    good = {"w": np.zeros(3, np.float32), "b": np.zeros((2, 2), np.float32)}
    content = encode_update(Update(STUDY.digest(), 0, good))
    array = Array(dtype=dtype, shape=(7,), stype=stype, data=data)
    return RecordDict({**content, "delta": ArrayRecord({layout(spec_of(good)): array})})


def bad_nodes(honest: Callable[[Message], Update]) -> dict[str, tuple[Node, Refusal]]:
    good = {"w": np.zeros(3, np.float32), "b": np.zeros((2, 2), np.float32)}
    version = RecordDict(encode_update(Update(STUDY.digest(), 0, good)))
    version["update"] = ConfigRecord(dict(version.config_records["update"]) | {"protocol": 2})
    return {
        "nan": (with_delta(honest, first_number(np.nan)), Refusal.NOT_FINITE),
        "infinity": (with_delta(honest, first_number(-np.inf)), Refusal.NOT_FINITE),
        "huge norm": (with_delta(honest, first_number(1e6)), Refusal.NORM),
        "a norm beyond float64's squares": (
            with_delta(honest, lambda d: {n: np.full_like(x, 3e38) for n, x in d.items()}),
            Refusal.NORM,
        ),
        "huge delta": (lambda _: with_array(np.zeros(100_000, "f4").tobytes()), Refusal.SIZE),
        "huge header": (lambda _: RecordDict({
            "update": ConfigRecord({"protocol": b"x" * 100_000}), "delta": ArrayRecord(),
        }), Refusal.SIZE),
        "float64": (lambda _: with_array(b"\0" * 56, dtype="float64"), Refusal.ARRAYS),
        "complex": (lambda _: with_array(b"\0" * 56, dtype="complex64"), Refusal.ARRAYS),
        "Python objects": (lambda _: with_array(b"\0" * 28, dtype="object"), Refusal.ARRAYS),
        "pickle": (lambda _: with_array(b"\0" * 28, stype="pickle"), Refusal.ARRAYS),
        "fewer bytes than the shape says": (lambda _: with_array(b"\0" * 24), Refusal.ARRAYS),
        "an unreadable reply": (lambda _: Error(UNREADABLE_REPLY), Refusal.UNREADABLE),
        "an unknown error": (lambda _: Error(-7, "x" * 10_000), Refusal.NODE_ERROR),
        "wrong shape": (
            with_delta(honest, lambda d: d | {"w": d["w"].reshape(3, 1)}),
            Refusal.ARRAYS,
        ),
        "missing leaf": (with_delta(honest, lambda d: {"w": d["w"]}), Refusal.ARRAYS),
        "extra leaf": (with_delta(honest, lambda d: d | {"head": d["w"]}), Refusal.ARRAYS),
        "numpy's own format": (lambda _: RecordDict({
            "update": encode_update(Update("d", 0, good))["update"],
            "delta": ArrayRecord({layout(spec_of(good)): Array(np.zeros(7, np.float32))}),
        }), Refusal.ARRAYS),
        "wrong round": (changed(honest, round_index=99), Refusal.ROUND),
        "another study": (changed(honest, study_digest="0" * 64), Refusal.STUDY),
        "later version": (lambda _: version, Refusal.VERSION),
        "empty": (lambda _: RecordDict(), Refusal.RECORDS),
        "garbage": (lambda _: RecordDict({"x": MetricRecord({"y": 1})}), Refusal.RECORDS),
        "nothing": (lambda _: None, Refusal.NO_REPLY),
        "crash": (lambda _: Error(8, "Traceback: /home/patients"), Refusal.NODE_ERROR),
        "no data": (lambda _: Error(int(SiteRefusal.DATA)), Refusal.SITE_DATA),
        "privacy": (lambda _: Error(int(SiteRefusal.PRIVACY)), Refusal.SITE_PRIVACY),
        "budget": (lambda _: Error(int(SiteRefusal.BUDGET)), Refusal.SITE_BUDGET),
        "internal": (lambda _: Error(int(SiteRefusal.INTERNAL)), Refusal.SITE_INTERNAL),
        "study": (lambda _: Error(int(SiteRefusal.STUDY)), Refusal.SITE_STUDY),
        "protocol": (lambda _: Error(int(SiteRefusal.PROTOCOL)), Refusal.SITE_PROTOCOL),
    }  # fmt: skip


def test_a_round_says_what_the_admitted_said_of_their_privacy_and_nobody_else(
    play: Any, scripted_grid: Any, honest_node: Node, honest_update_of: Any
) -> None:
    promise = PrivacyPromise("dp-sgd", 8.0, 1e-5, "add or remove one patient")

    def private(message: Message) -> RecordDict:
        return encode_update(dataclasses.replace(honest_update_of(message), promise=promise))

    def late_study(message: Message) -> RecordDict:
        return encode_update(
            dataclasses.replace(honest_update_of(message), study_digest="0", promise=promise)
        )

    _, events = play(scripted_grid({1: private, 2: honest_node, 3: late_study}))
    for event in events:
        assert event.promises == {"1": promise.to_settings(), "2": {"mechanism": "none"}}


@pytest.mark.parametrize("kind", bad_nodes(lambda _: None))  # type: ignore[arg-type,return-value]
def test_a_bad_reply_is_refused_with_its_reason_and_the_round_goes_on(
    kind: str, play: Any, scripted_grid: Any, honest_node: Node, honest_update_of: Any
) -> None:
    bad, reason = bad_nodes(honest_update_of)[kind]
    final, events = play(scripted_grid({1: honest_node, 2: honest_node, 3: bad}))
    for event in events:
        assert (event.asked, event.admitted, event.void) == (3, 2, False)
        assert event.refused == {reason.value: 1}
        assert event.refused_nodes == {reason.value: [3]}
    without, _ = play(scripted_grid({1: honest_node, 2: honest_node}))
    assert bits(final) == bits(without)


def test_the_text_of_an_error_reply_is_not_logged(
    play: Any, scripted_grid: Any, honest_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        play(scripted_grid({1: honest_node, 2: lambda _: Error(8, "/home/patients/DOE^JOHN")}))
    assert "node-error" in caplog.text
    assert "DOE" not in caplog.text


def test_a_node_that_answers_twice_counts_not_at_all(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    def twice(replies: list[Message]) -> list[Message]:
        return [*replies, replies[-1]]

    _, events = play(scripted_grid({1: honest_node, 2: honest_node}, reorder=twice))
    assert events[0].admitted == 1
    assert events[0].refused == {"duplicate": 1}


def test_an_update_of_an_earlier_round_under_a_new_order_is_refused(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    first: list[Any] = []

    def repeats_itself(message: Message) -> Any:
        first.append(honest_node(message))
        return first[0]

    _, events = play(scripted_grid({1: honest_node, 2: repeats_itself}))
    assert [event.refused for event in events] == [{}, {"round": 1}, {"round": 1}]
    assert [event.refused_nodes for event in events] == [{}, {"round": [2]}, {"round": [2]}]


def test_a_reply_nobody_asked_for_is_refused(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    stolen: list[Message] = []

    def replay(replies: list[Message]) -> list[Message]:
        stolen.extend(replies)
        return [*replies, stolen[0]] if len(stolen) > len(replies) else replies

    _, events = play(scripted_grid({1: honest_node, 2: honest_node}, reorder=replay))
    assert [event.refused for event in events] == [{}, {"unknown-node": 1}, {"unknown-node": 1}]
    assert [event.admitted for event in events] == [2, 2, 2]


def test_a_node_cannot_answer_in_the_name_of_another(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    def disguise(replies: list[Message]) -> list[Message]:
        replies[0].metadata.__dict__["_src_node_id"] = 2
        return replies

    _, events = play(scripted_grid({1: honest_node, 2: honest_node}, reorder=disguise))
    assert events[0].admitted == 1
    assert events[0].refused == {"no-reply": 1, "unknown-node": 1}


def test_an_error_that_the_superlink_reports_counts_for_the_node_it_asked(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    def from_superlink(replies: list[Message]) -> list[Message]:
        replies[-1].metadata.__dict__["_src_node_id"] = 1
        return replies

    grid = scripted_grid({5: honest_node, 6: lambda _: Error(5)}, reorder=from_superlink)
    _, events = play(grid)
    assert events[0].refused == {"node-error": 1}


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
