"""No reply makes the coordinator raise: records, values and metadata at random."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaward.arrays import Arrays
from metaward.study import Study
from metaward.wire import Update, encode_update
from metaward.wire_arrays import RAW_FLOAT32, layout
from metaward_server.admission import Refusal, Rules, admit
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.outer_optimizers import initial_state
from metaward_server.rounds_log import RoundsLog
from metaward_server.strategy import MetaStrategy, StudyRecord

SPEC = {"w": (3,), "b": (2, 2)}
STUDY = Study(seed=3, rounds=1)
RULES = Rules(SPEC, STUDY.digest(), 0, STUDY.round.max_delta_norm)
REASONS = {refusal.value for refusal in Refusal}
SECRET = "DOE^JOHN"

names = st.sampled_from(["w", "update", "delta", "protocol", "round", "study-digest", SECRET])
texts = names | st.text(max_size=20)
scalars = (
    st.integers(-(2**63), 2**63 - 1) | st.floats() | texts | st.binary(max_size=30) | st.booleans()
)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats()


def lists_of(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*(st.lists(kind, max_size=4) for kind in kinds))


header = st.fixed_dictionaries(
    {},
    optional={
        "protocol": st.just(1) | scalars,
        "round": st.just(0) | scalars,
        "study-digest": st.just(STUDY.digest()) | scalars,
    },
)
configs = (header | st.dictionaries(texts, scalars, max_size=4)).map(ConfigRecord) | (
    st.dictionaries(texts, lists_of(st.integers(0, 9), texts, st.binary(max_size=9)), max_size=2)
).map(ConfigRecord)
metrics = st.dictionaries(texts, numbers | lists_of(st.floats()), max_size=3).map(MetricRecord)
odd = st.none() | scalars | st.lists(scalars, max_size=3)


@st.composite
def odd_arrays(draw: st.DrawFn) -> ArrayRecord:
    """Give arrays with anything in their four fields, also what Flower itself would not take."""
    plain = Array(dtype="float32", shape=(3,), stype=RAW_FLOAT32, data=b"\0")
    layouts = st.just([layout(SPEC)]) | st.lists(texts, max_size=3)
    record = ArrayRecord(dict.fromkeys(draw(layouts), plain))
    for array in record.values():
        array.data = draw(st.binary(max_size=40))
        if draw(st.booleans()):
            array.__dict__["dtype"] = draw(st.sampled_from(["float32", "float64", "object"]) | odd)
            array.__dict__["shape"] = tuple(
                draw(st.lists(st.integers(-9, 2**62) | odd, max_size=4))
            )
            array.__dict__["stype"] = draw(st.sampled_from([RAW_FLOAT32, "numpy.ndarray"]) | odd)
    return record


finite_or_not = st.floats(width=32)


@st.composite
def deltas(draw: st.DrawFn) -> ArrayRecord:
    """Give a record of the right form, with any values."""
    values = draw(st.lists(finite_or_not, min_size=7, max_size=7))
    flat = np.float32(values)
    return encode_update(Update("", 0, {"w": flat[:3], "b": flat[3:].reshape(2, 2)})).array_records[
        "delta"
    ]


records = configs | metrics | deltas() | odd_arrays()
contents = st.one_of(
    st.fixed_dictionaries({"update": header.map(ConfigRecord), "delta": deltas()}),
    st.fixed_dictionaries({"update": configs, "delta": records}),
    st.dictionaries(texts, records, max_size=3),
).map(RecordDict)
answers = contents | st.builds(Error, st.integers(-(2**63), 2**63 - 1), st.none() | texts)


@pytest.fixture
def asked(scripted_grid: Any) -> Message:
    """An order to node 1, as a grid has sent it."""
    scripted_grid({})
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = "order-1"
    return message


one_order = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
"""The fixtures hold nothing that an example changes."""


@settings(one_order, max_examples=200)
@given(answer=answers)
def test_whatever_a_reply_holds_it_counts_or_is_refused_with_a_reason(
    answer: RecordDict | Error, asked: Message
) -> None:
    admission = admit([Message(answer, reply_to=asked)], {"order-1": 1}, RULES)
    if admission.deltas:
        (delta,) = admission.deltas.values()
        assert {name: leaf.shape for name, leaf in delta.items()} == SPEC
        assert all(np.isfinite(leaf).all() for leaf in delta.values())
        assert not admission.refused
    else:
        ((reason, nodes),) = admission.refused.items()
        assert reason in REASONS
        assert nodes == [1]


@one_order
@given(
    answer=answers,
    reply_to=st.sampled_from(["order-1", "", "x"]) | texts,
    sender=st.sampled_from([0, 1, 2]) | st.integers(-(2**63), 2**64 - 1),
    times=st.integers(0, 3),
)
def test_whatever_a_reply_says_of_itself_only_the_node_that_was_asked_counts_and_once(
    answer: RecordDict | Error, reply_to: str, sender: int, times: int, asked: Message
) -> None:
    reply = Message(answer, reply_to=asked)
    reply.metadata.__dict__["_reply_to_message_id"] = reply_to
    reply.metadata.__dict__["_src_node_id"] = sender
    admission = admit([reply] * times, {"order-1": 1}, RULES)
    if admission.deltas:
        assert (list(admission.deltas), reply_to, sender, times) == ([1], "order-1", 1, 1)
    else:
        assert set(admission.refused) <= REASONS
        assert admission.refused


@settings(one_order, max_examples=25)
@given(bad=st.lists(answers, min_size=1, max_size=3))
def test_a_study_goes_on_whatever_some_nodes_send_and_repeats_none_of_it(
    bad: list[RecordDict | Error],
    scripted_grid: Any,
    honest_node: Any,
    theta: Arrays,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = {i: lambda _, answer=answer: answer for i, answer in enumerate(bad, start=2)}
    folder: Path = tmp_path_factory.mktemp("study")
    record = StudyRecord(
        CheckpointStore(folder / "checkpoints", STUDY.digest()),
        RoundsLog(folder / "rounds.jsonl"),
        lambda _: None,
    )
    with caplog.at_level(logging.DEBUG):
        progress = MetaStrategy(STUDY, record, n_nodes=1).start(
            scripted_grid({1: honest_node} | nodes),
            Progress(0, theta, initial_state(STUDY.outer, theta)),
        )
    assert progress.next_round == 1
    assert all(np.isfinite(leaf).all() for leaf in progress.theta.values())
    text = (folder / "rounds.jsonl").read_text()
    (line,) = [json.loads(line) for line in text.splitlines()]
    assert line["admitted"] + sum(line["refused"].values()) == line["asked"] == 1 + len(bad)
    assert {node for nodes in line["refused_nodes"].values() for node in nodes} <= set(nodes)
    assert SECRET not in text + caplog.text
