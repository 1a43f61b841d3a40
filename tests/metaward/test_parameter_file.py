"""A parameter file from anywhere: each leaf has a place of its own within the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaward import parameter_file
from metaward.errors import ConfigError
from metaward.parameter_file import parse_parameters

SHAPES = {"a": (2,), "b": (1, 3)}
VALUES = np.arange(5, dtype="<f4")
HERE = Path("model.safetensors")


def leaf(shape: list[int], first: int, last: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [first, last]}


def file_of(a: tuple[int, int], b: tuple[int, int], *, padding: int = 0) -> bytes:
    header = json.dumps({"a": leaf([2], *a), "b": leaf([1, 3], *b)}).encode() + b" " * padding
    return len(header).to_bytes(8, "little") + header + VALUES.tobytes()


@pytest.mark.parametrize(("a", "b"), [((0, 8), (8, 20)), ((12, 20), (0, 12))])
def test_leaves_are_read_from_their_places_in_whatever_order_they_stand(
    a: tuple[int, int], b: tuple[int, int]
) -> None:
    found = parse_parameters(file_of(a, b), SHAPES, HERE)
    assert found["a"].tolist() == VALUES[a[0] // 4 : a[1] // 4].tolist()
    assert found["b"].tolist() == [VALUES[b[0] // 4 : b[1] // 4].tolist()]


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        ((0, 8), (12, 24), "b has bytes 12 to 24, not 12 of them"),  # 4 past the end
        ((-4, 4), (8, 20), "a has bytes -4 to 4"),
        ((8, 0), (8, 20), "a has bytes 8 to 0"),
        ((0, 8), (4, 16), "two leaves share bytes"),
        ((8, 16), (0, 12), "two leaves share bytes"),
        ((0, 8), (8, 16), "b has bytes 8 to 16"),
    ],
)
def test_a_leaf_outside_the_file_or_upon_another_is_refused(
    a: tuple[int, int], b: tuple[int, int], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_parameters(file_of(a, b), SHAPES, HERE)


def test_a_header_is_as_long_as_its_bound_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    content = file_of((0, 8), (8, 20))
    size = int.from_bytes(content[:8], "little")
    monkeypatch.setattr(parameter_file, "MAX_HEADER_BYTES", size)
    assert set(parse_parameters(content, SHAPES, HERE)) == {"a", "b"}
    with pytest.raises(ConfigError, match="the header is cut off or too large"):
        parse_parameters(file_of((0, 8), (8, 20), padding=1), SHAPES, HERE)
