"""Which replies of scripted nodes count, and which are refused with their reason."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from metaward.arrays import Arrays
from metaward.privacy_promise import PrivacyPromise
from metaward.wire import SiteRefusal, Update, encode_update
from metaward.wire_arrays import RAW_FLOAT32, layout, spec_of
from metaward_server.admission import UNREADABLE_REPLY, Refusal
from played_studies import STUDY, Node, bits, changed, study_with, with_delta


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


def test_a_delta_as_long_as_the_study_allows_is_admitted_and_a_longer_one_is_not(
    play: Any, scripted_grid: Any, honest_update_of: Callable[[Message], Update]
) -> None:
    def of_length_5(last: float) -> Node:
        leaves = {"w": np.float32([3, 0, last]), "b": np.float32([[4, 0], [0, 0]])}
        return with_delta(honest_update_of, lambda _: leaves)

    grid = scripted_grid({1: of_length_5(0.0), 2: of_length_5(0.01)})
    _, events = play(grid, study_with(rounds=1, max_delta_norm=5.0))
    assert (events[0].admitted, events[0].refused_nodes) == (1, {"norm": [2]})


def test_the_nodes_refused_for_a_reason_ascend_however_their_replies_come(
    play: Any, scripted_grid: Any, honest_node: Node
) -> None:
    def claim(replies: list[Message]) -> list[Message]:
        for reply, number in zip(replies, (9, 4), strict=False):
            reply.metadata.__dict__["_src_node_id"] = number
        return replies

    _, events = play(scripted_grid(dict.fromkeys((1, 2, 3), honest_node), reorder=claim))
    assert events[0].refused_nodes == {"no-reply": [1, 2], "unknown-node": [4, 9]}


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
