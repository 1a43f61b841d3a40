"""The leaves as one array: where each value stands, and every other array is refused."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from metaward import wire_arrays
from metaward.wire import Update, decode_update, encode_update
from metaward.wire_arrays import ArraysError
from wire_cases import ARRAYS, SPEC, an_update, raw


def test_the_elements_lie_end_to_end_by_the_leaves_names_sorted() -> None:
    [array] = wire_arrays.encode_arrays(
        {"b": np.float32([3, 4]), "a": np.float32([[1], [2]])}
    ).values()
    assert (array.shape, array.stype) == ((4,), "metaward.float32-le")
    assert array.data == np.array([1, 2, 3, 4], dtype="<f4").tobytes()


def test_a_layout_is_its_leaves_in_any_order() -> None:
    assert wire_arrays.layout(dict(reversed(SPEC.items()))) == wire_arrays.layout(SPEC)


def test_a_decoded_array_is_a_writable_copy() -> None:
    delta = decode_update(an_update(), SPEC).delta
    delta["conv"][0, 0] = 9.0
    assert ARRAYS["conv"][0, 0] == 0.0


def test_arrays_in_another_memory_order_keep_their_values() -> None:
    turned = {"w": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))}
    update = decode_update(encode_update(Update("d", 0, turned)), {"w": (2, 3)})
    np.testing.assert_array_equal(update.delta["w"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "array",
    [
        raw(dtype="float64"),
        raw(dtype="object"),
        raw(shape=(3,)),
        raw(shape=(2, 1)),
        raw(shape=(-1,)),
        raw(stype="numpy.ndarray"),
        Array(np.zeros(2, dtype=np.float32)),
        Array(dtype="float32", shape=(2,), stype=wire_arrays.RAW_FLOAT32, data=b"\0" * 7),
        Array(dtype="float32", shape=(2,), stype=wire_arrays.RAW_FLOAT32, data=b"\0" * 800),
        Array(dtype="float32", shape=(10**12,), stype=wire_arrays.RAW_FLOAT32, data=b"\0" * 8),
    ],
)
def test_an_array_of_another_kind_shape_or_length_is_refused(array: Array) -> None:
    spec = {"w": (2,)}
    content = RecordDict({**an_update(), "delta": ArrayRecord({wire_arrays.layout(spec): array})})
    with pytest.raises(ArraysError, match="number of bytes"):
        decode_update(content, spec)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"conv": (2, 3)},
        SPEC | {"head": (1,)},
        SPEC | {"conv": (3, 2)},
        SPEC | {"conv": (6,)},
        SPEC | {"scale": (), "scalar": (1,)},
        {"Conv" if name == "conv" else name: shape for name, shape in SPEC.items()},
    ],
)
def test_leaves_of_other_names_or_shapes_are_refused_also_with_as_many_elements(
    other: wire_arrays.ArraySpec,
) -> None:
    arrays = {name: np.zeros(shape, dtype=np.float32) for name, shape in other.items()}
    content = RecordDict({**an_update(), "delta": wire_arrays.encode_arrays(arrays)})
    with pytest.raises(ArraysError, match="another layout"):
        decode_update(content, SPEC)


def test_a_second_array_is_refused() -> None:
    arrays = {
        **an_update().array_records["delta"],
        **wire_arrays.encode_arrays({"w": np.float32([1])}),
    }
    with pytest.raises(ArraysError, match="2 arrays"):
        decode_update(RecordDict({**an_update(), "delta": ArrayRecord(arrays)}), SPEC)
