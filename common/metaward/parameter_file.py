"""Read named float32 leaves from a safetensors file that may come from anywhere.

The format is 8 bytes of header length, a JSON header (leaf -> dtype, shape, place) and the values.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from metaward.arrays import Arrays
from metaward.errors import ConfigError

MAX_HEADER_BYTES = 1024 * 1024
"""Ours is a few KiB."""

ASK_AGAIN = "Ask whoever sent the model for the folder as `metaward` wrote it."


def parse_parameters(content: bytes, expected: dict[str, tuple[int, ...]], path: Path) -> Arrays:
    """Return the leaves of a safetensors file after checking every header entry.

    Args:
        content: The whole file.
        expected: Shape of each leaf; all are float32.
        path: Where it stands, for the message.

    Raises:
        ConfigError: The header is damaged, a leaf is missing, unknown, of another shape or type
            or outside the file, two leaves overlap, or a value is not finite.
    """
    header, start = _header(content, path)
    header.pop("__metadata__", None)
    problems = [f"{name} is missing" for name in expected if name not in header]
    problems += [f"{name!r:.60} is unknown" for name in header if name not in expected]
    for name in expected.keys() & header.keys():
        entry = header[name]
        dtype, shape = (
            (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        )
        if (dtype, shape) != ("F32", list(expected[name])):
            problems.append(
                f"{name} is {dtype!r:.20} {shape!r:.60} where F32 {list(expected[name])} belongs"
            )
    if problems:
        raise _unfit(sorted(problems), path)
    theta: Arrays = {}
    spans = []
    for name, shape in expected.items():
        n_bytes = 4 * int(np.prod(shape))
        first, last = _span(header[name], name, path)
        if last - first != n_bytes or not 0 <= first <= last <= len(content) - start:
            raise _unfit([f"{name} has bytes {first} to {last}, not {n_bytes} of them"], path)
        spans.append((first, last))
        flat = np.frombuffer(content, dtype="<f4", count=n_bytes // 4, offset=start + first)
        theta[name] = flat.astype(np.float32).reshape(shape)
    if any(later < ended for (_, ended), (later, _) in pairwise(sorted(spans))):
        raise _unfit(["two leaves share bytes"], path)
    broken = [name for name, leaf in theta.items() if not np.isfinite(leaf).all()]
    if broken:
        raise _unfit([f"{name} holds values that are not finite" for name in broken], path)
    return theta


def _header(content: bytes, path: Path) -> tuple[dict[str, object], int]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(len(content) - 8, MAX_HEADER_BYTES):
        raise _unfit(["the header is cut off or too large"], path)
    try:
        header = json.loads(content[8 : 8 + size], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise _unfit(["the header is not the JSON of a safetensors file"], path) from None
    if not isinstance(header, dict):
        raise _unfit(["the header is not a table of leaves"], path)
    return header, 8 + size


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _span(entry: object, name: str, path: Path) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    match offsets:
        case [int() as first, int() as last]:
            return first, last
        case _:
            raise _unfit([f"{name} has no place in the file"], path)


def _unfit(problems: list[str], path: Path) -> ConfigError:
    shown = "; ".join(problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return ConfigError(
        shown + more,
        expected="finite float32 leaves that fit the architecture in the model card",
        where=str(path),
        next_step=ASK_AGAIN,
    )
