"""What crosses the wire, and what is refused before it is read."""

import dataclasses
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from metaward import wire_arrays
from metaward.arrays import Arrays
from metaward.errors import ProtocolError
from metaward.wire import (
    MAX_STUDY_BYTES,
    RecordsError,
    SiteRefusal,
    SizeError,
    Update,
    VersionError,
    decode_order,
    decode_update,
    encode_refusal,
    encode_update,
)
from metaward.wire_arrays import ArraysError
from wire_cases import ARRAYS, SPEC, STUDY, an_order, an_update, raw, with_config


def assert_same_bits(left: Arrays, right: Arrays) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == np.float32
        assert array.shape == right[name].shape
        assert array.tobytes() == right[name].tobytes()


def test_an_order_comes_back_as_it_was() -> None:
    order = decode_order(an_order(), lambda _: SPEC)
    assert order.study == STUDY
    assert order.round_index == 4
    assert_same_bits(order.theta, ARRAYS)


def test_an_update_comes_back_as_it_was() -> None:
    update = decode_update(an_update(), SPEC)
    assert (update.study_digest, update.round_index) == (STUDY.digest(), 4)
    assert_same_bits(update.delta, ARRAYS)


def fields_of(content: RecordDict) -> set[str]:
    """Every name that a RecordDict carries, array fields included."""
    fields = set()
    for name, record in content.items():
        for key in record:
            if isinstance(record, ArrayRecord):
                names = [field.name for field in dataclasses.fields(record[key])]
                assert names == ["dtype", "shape", "stype", "data"]
                fields.add(f"{name}/{key}: float32 bytes")
            else:
                fields.add(f"{name}/{key}: {type(record[key]).__name__}")
    return fields


def test_nothing_crosses_that_is_not_on_this_list() -> None:
    assert fields_of(an_order()) == {
        "order/protocol: int",
        "order/round: int",
        "order/study: str",
        f"theta/{wire_arrays.layout(SPEC)}: float32 bytes",
    }
    assert fields_of(an_update()) == {
        "update/protocol: int",
        "update/round: int",
        "update/study-digest: str",
        "update/mechanism: str",
        "update/neighbouring: str",
        "update/target-epsilon: float",
        "update/target-delta: float",
        f"delta/{wire_arrays.layout(SPEC)}: float32 bytes",
    }


def test_a_message_has_no_metadata_that_is_not_on_this_list(
    order_message: Callable[[RecordDict], Message],
) -> None:
    reply = Message(an_update(), reply_to=order_message(an_order()))
    assert set(vars(reply)) == {"_metadata", "_content", "_error"}
    assert set(vars(reply.metadata)) == {
        "_run_id",
        "_message_id",
        "_src_node_id",
        "_dst_node_id",
        "_src_task_id",
        "_dst_task_id",
        "_reply_to_message_id",
        "_group_id",
        "_created_at",
        "_ttl",
        "_message_type",
        "_delivered_at",
    }


def test_a_refusal_is_a_number_and_no_text() -> None:
    for refusal in SiteRefusal:
        error = encode_refusal(refusal)
        assert error.code == refusal.value
        assert error.reason is None


def test_refusals_do_not_collide_with_the_error_codes_of_flower() -> None:
    assert min(SiteRefusal) > 100


@pytest.mark.parametrize("version", [0, 2, "1", True, 1.0, None])
def test_another_protocol_version_is_refused(version: object) -> None:
    for decode in (
        lambda: decode_order(with_config(an_order(), "order", protocol=version), lambda _: SPEC),
        lambda: decode_update(with_config(an_update(), "update", protocol=version), SPEC),
    ):
        with pytest.raises(VersionError, match="protocol version"):
            decode()


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"update": an_update()["update"]}),
        RecordDict({**an_update(), "metrics": MetricRecord({"loss": 0.1})}),
        RecordDict({"update": an_update()["delta"], "delta": an_update()["update"]}),
        an_order(),
        with_config(an_update(), "update", extra=1),
        with_config(an_update(), "update", round=None),
        with_config(an_update(), "update", round=-1),
        with_config(an_update(), "update", round="4"),
        with_config(an_update(), "update", round=True),
        with_config(an_update(), "update", study_digest=b"abc"),
    ],
)
def test_unknown_missing_or_mistyped_records_and_keys_are_refused(content: RecordDict) -> None:
    with pytest.raises(RecordsError):
        decode_update(content, SPEC)


@pytest.mark.parametrize("changes", [{"more": 1}, {"round": None}, {"study": None}])
def test_an_order_with_a_key_more_or_less_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RecordsError, match="unknown or missing keys"):
        decode_order(with_config(an_order(), "order", **changes), lambda _: SPEC)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seeed": 1}', '{"rounds": 0}', "x" * 70_000, 7])
def test_a_study_that_cannot_be_read_is_refused(text: object) -> None:
    with pytest.raises(RecordsError, match="study"):
        decode_order(with_config(an_order(), "order", study=text), lambda _: SPEC)


def test_a_study_that_is_too_long_is_refused_also_where_it_could_be_read() -> None:
    def padded(length: int) -> RecordDict:
        return with_config(an_order(), "order", study=STUDY.model_dump_json().ljust(length))

    assert decode_order(padded(MAX_STUDY_BYTES), lambda _: SPEC).study == STUDY
    with pytest.raises(RecordsError, match="at most 65536 characters"):
        decode_order(padded(MAX_STUDY_BYTES + 1), lambda _: SPEC)


def heavy_updates() -> dict[str, RecordDict]:
    heavy = b"\0" * 64_000_000
    text = heavy.decode()
    array = Array(dtype="float32", shape=(2,), stype=wire_arrays.RAW_FLOAT32, data=heavy)
    named = Array(dtype=text, shape=(2,), stype=wire_arrays.RAW_FLOAT32, data=b"")
    shaped = Array(dtype="float32", shape=(1,) * 100_000, stype=wire_arrays.RAW_FLOAT32, data=b"")
    return {
        "the delta": RecordDict({**an_update(), "delta": ArrayRecord({"conv": array})}),
        "the delta's dtype": RecordDict({**an_update(), "delta": ArrayRecord({"conv": named})}),
        "the delta's shape": RecordDict({**an_update(), "delta": ArrayRecord({"conv": shaped})}),
        "the delta's layout": RecordDict({**an_update(), "delta": ArrayRecord({text: named})}),
        "a record more": RecordDict({**an_update(), "x": ConfigRecord({"y": heavy})}),
        "a record's name": RecordDict({**an_update(), text: ConfigRecord()}),
        "the version": with_config(an_update(), "update", protocol=heavy),
        "the digest": with_config(an_update(), "update", study_digest=text),
        "the round": with_config(an_update(), "update", round=[1] * 100_000),
        "a metric": RecordDict({**an_update(), "x": MetricRecord({"y": [0.5] * 100_000})}),
    }


@pytest.mark.parametrize("where", heavy_updates())
def test_an_update_that_is_too_large_is_refused_before_a_byte_of_it_is_copied(where: str) -> None:
    content = heavy_updates()[where]
    tracemalloc.start()
    try:
        with pytest.raises(SizeError, match="more than") as caught:
            decode_update(content, SPEC)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert len(str(caught.value)) < 200


def test_the_bound_on_size_has_room_for_every_true_update() -> None:
    long = {"module.with.quite.a.name." * 3 + str(i): np.float32(i) for i in range(200)}
    arrays = {name: np.asarray(value) for name, value in long.items()}
    content = encode_update(Update(STUDY.digest(), 2**40, arrays))
    assert decode_update(content, wire_arrays.spec_of(arrays)).delta.keys() == arrays.keys()


def test_what_a_stranger_wrote_is_in_no_message() -> None:
    strange = "DOE^JOHN"
    named = raw(dtype=strange)
    for content in (
        with_config(an_update(), "update", protocol=strange),
        with_config(an_update(), "update", **{strange: 1}),
        with_config(an_update(), "update", round=strange),
        with_config(an_update(), "update", study_digest=strange.encode()),
        RecordDict({strange: ConfigRecord()}),
        RecordDict({**an_update(), "delta": ArrayRecord({wire_arrays.layout(SPEC): named})}),
        RecordDict({**an_update(), "delta": ArrayRecord({strange: named})}),
    ):
        with pytest.raises(ProtocolError) as caught:
            decode_update(content, SPEC)
        assert "DOE" not in str(caught.value)


def test_every_fault_of_the_wire_is_a_protocol_error() -> None:
    assert all(
        issubclass(kind, ProtocolError)
        for kind in (SizeError, VersionError, RecordsError, ArraysError)
    )
