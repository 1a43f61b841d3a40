"""What the tests of the wire share: one order, one update, and what a stranger makes of them."""

import numpy as np
from flwr.app import Array, ConfigRecord, RecordDict

from metaward import wire_arrays
from metaward.arrays import Arrays
from metaward.privacy_promise import PrivacyPromise
from metaward.study import Study
from metaward.wire import RoundOrder, Update, encode_order, encode_update

STUDY = Study(seed=7)
ARRAYS: Arrays = {
    "conv": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scale": np.float32([0.5]),
    "scalar": np.asarray(3.0, dtype=np.float32),
}
SPEC = wire_arrays.spec_of(ARRAYS)


def an_order() -> RecordDict:
    return encode_order(RoundOrder(STUDY, 4, ARRAYS))


def an_update() -> RecordDict:
    promise = PrivacyPromise("dp-sgd", 8.0, 1e-5, "add or remove one patient")
    return encode_update(Update(STUDY.digest(), 4, ARRAYS, promise))


def with_config(content: RecordDict, record: str, **changes: object) -> RecordDict:
    config = dict(content.config_records[record]) | {
        key.replace("_", "-"): value for key, value in changes.items()
    }
    kept = {key: value for key, value in config.items() if value is not None}
    return RecordDict({**content, record: ConfigRecord(kept)})  # type: ignore[arg-type]


def raw(
    dtype: str = "float32", shape: object = (2,), stype: str = wire_arrays.RAW_FLOAT32
) -> Array:
    array = Array(dtype=dtype, shape=(2,), stype=stype, data=b"\0" * 8)
    array.shape = shape  # type: ignore[assignment]
    return array
