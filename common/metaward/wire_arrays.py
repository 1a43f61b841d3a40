"""Arrays on the wire: one block of raw numbers, of which the reader knows the layout beforehand.

All leaves travel in one Flower ``Array`` of raw little-endian float32, with a serialisation
name of our own; its name is the digest of the leaves' names and shapes. Both ends know these from
the study's model, so digest, dtype, shape and the exact number of bytes are compared before one
byte is interpreted: there is no header to parse, nothing to unpickle, and no length that the sender
chooses. Flower's own modifications (which take deltas for full parameters and corrupt them in
silence) fail on the unknown serialisation instead. One array in the place of one for each leaf is a
quarter of the objects that Flower makes of a message, each of which is a request
(docs/design/0006-between-hospitals-and-flower.md).
"""

import hashlib
import json
from collections.abc import Mapping
from math import prod
from typing import TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from metaward.arrays import Arrays
from metaward.errors import ProtocolError

FLOAT32 = "float32"
RAW_FLOAT32 = "metaward.float32-le"
"""Serialisation name: the elements of the leaves, sorted by name, each in C order, little-endian,
and nothing else."""

ArraySpec: TypeAlias = dict[str, tuple[int, ...]]
"""Leaf name -> shape; every leaf is float32."""


class ArraysError(ProtocolError):
    """The arrays' layout, dtype or length is not what the study's model has."""


def spec_of(arrays: Mapping[str, NDArray[np.float32]]) -> ArraySpec:
    """Return the names and shapes of ``arrays``."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def encode_arrays(arrays: Mapping[str, NDArray[np.float32]]) -> ArrayRecord:
    """Return the arrays as one, raw little-endian float32."""
    assert all(array.dtype == np.float32 for array in arrays.values())
    data = b"".join(np.asarray(arrays[name], dtype="<f4").tobytes() for name in sorted(arrays))
    array = Array(dtype=FLOAT32, shape=(len(data) // 4,), stype=RAW_FLOAT32, data=data)
    return ArrayRecord({layout(spec_of(arrays)): array})


def decode_arrays(record: ArrayRecord, spec: ArraySpec) -> Arrays:
    """Read arrays that must have exactly the names and shapes of ``spec``; the result is a copy.

    Raises:
        ArraysError: The layout, serialisation, dtype, shape or length differs.
    """
    name = layout(spec)
    if record.keys() != {name}:
        raise ArraysError(
            f"{len(record)} arrays, or one of another layout",
            expected=f"one array that holds the {len(spec)} of the study's model",
            next_step="Install the same release of metaward at both ends.",
        )
    elements = _read_elements(record[name], bytes_of(spec))
    arrays, begin = {}, 0
    for leaf in sorted(spec):
        end = begin + prod(spec[leaf])
        arrays[leaf] = elements[begin:end].reshape(spec[leaf]).astype(np.float32, copy=True)
        begin = end
    return {leaf: arrays[leaf] for leaf in spec}


def layout(spec: ArraySpec) -> str:
    """Return the digest of the names and shapes, which tells what the elements are."""
    text = json.dumps({name: list(shape) for name, shape in spec.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_elements(array: Array, n_bytes: int) -> NDArray[np.float32]:
    for found, expected in (
        (array.stype, RAW_FLOAT32),
        (array.dtype, FLOAT32),
        (tuple(array.shape), (n_bytes // 4,)),
        (len(array.data), n_bytes),
    ):
        if found != expected:  # what was found is the sender's own text, and is not repeated
            raise ArraysError(
                "an array of another serialisation, dtype, shape or number of bytes",
                expected=f"{expected}",
            )
    return np.frombuffer(array.data, dtype="<f4")


def bytes_of(spec: ArraySpec) -> int:
    """Return how many bytes the elements of such arrays have."""
    return 4 * sum(prod(shape) for shape in spec.values())
