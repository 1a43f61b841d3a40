"""A reply is counted before it is held: as it comes, and as often as an array names a chunk."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.superlink.grid import http_grid

from metaward.study import Study
from metaward.wire import (
    RoundOrder,
    SizeError,
    Update,
    decode_update,
    encode_order,
    encode_update,
    largest_update,
)
from metaward.wire_arrays import spec_of
from metaward_server.bounded_replies import (
    OVERHEAD,
    PullLimit,
    RoundOverError,
    bound_replies,
    pulling_within,
)

MIB = 2**20
LARGE = {"w": np.random.default_rng(0).standard_normal((3 * MIB,)).astype(np.float32)}  # 12 MiB


@pytest.fixture(autouse=True)
def flowers_own(scripted_grid: Any) -> Iterator[None]:
    scripted_grid({})  # makes this process the coordinator of a run
    before = http_grid.pull_objects, http_grid.inflate_object_from_contents
    yield
    http_grid.pull_objects, http_grid.inflate_object_from_contents = before


def parts_of(content: RecordDict) -> tuple[str, dict[str, bytes]]:
    message = Message(content, 1, "train")
    parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    return message.object_id, parts


def update(theta: dict[str, np.ndarray]) -> RecordDict:
    return encode_update(Update("0" * 64, 0, theta))


def read(content: RecordDict) -> tuple[object, int]:
    """Pull and inflate as Flower's grid does; return the message and the bytes that were pulled."""
    root, parts = parts_of(content)
    pulled: list[int] = []

    def pull(name: str) -> bytes:
        pulled.append(len(parts[name]))
        return parts[name]

    try:
        contents = http_grid.pull_objects(list(parts), pull, max_concurrent_pulls=2)
    except SizeError:
        return None, sum(pulled)
    return http_grid.inflate_object_from_contents(root, contents), sum(pulled)


def bound_for(theta: dict[str, np.ndarray]) -> int:
    largest = largest_update(spec_of(theta))
    bound_replies(largest)
    return OVERHEAD * largest


def test_an_honest_update_passes_whole_and_in_many_leaves() -> None:
    for theta in (LARGE, {f"leaf{i}": np.full(i + 1, i, np.float32) for i in range(500)}):
        bound_for(theta)
        message, _ = read(update(theta))
        assert isinstance(message, Message)
        assert decode_update(message.content, spec_of(theta)).delta.keys() == theta.keys()


def test_of_a_reply_that_is_far_too_large_little_more_than_the_bound_is_pulled() -> None:
    small = {"w": LARGE["w"][:1000]}
    most = bound_for(small)
    many = {f"w{i}": LARGE["w"] + i for i in range(3)}  # 36 MiB
    message, pulled = read(update(many))
    assert message is None
    assert pulled <= most + 2 * 5 * MIB + MIB  # two objects at a time


def test_of_a_reply_of_many_small_parts_none_is_pulled() -> None:
    bound_for({"w": LARGE["w"][:1000]})
    many = {f"w{i}": Array(np.full(1, i, np.float32)) for i in range(2000)}
    message, pulled = read(RecordDict({"delta": ArrayRecord(many)}))
    assert (message, pulled) == (None, 0)


def test_a_chunk_that_is_named_a_thousand_times_is_counted_a_thousand_times() -> None:
    bound_for(LARGE)
    root, parts = parts_of(update(LARGE))
    [array] = [name for name, part in parts.items() if part.startswith(b"Array ")]
    head, body = parts[array].split(b"\0", 1)
    described = json.loads(body)
    described["arraychunk_ids"] *= 1000  # 12 GB from 12 MB
    body = json.dumps(described).encode()
    words = head.split(b" ")
    parts[array] = b" ".join([*words[:-1], str(len(body)).encode()]) + b"\0" + body
    with pytest.raises(SizeError, match="at most"):
        http_grid.inflate_object_from_contents(root, parts)


def never(name: str) -> bytes:
    raise ObjectUnavailableError(name)


def test_no_part_is_pulled_once_the_round_is_over() -> None:
    bound_for(LARGE)
    over, pulled = threading.Event(), list[str]()

    def pull(name: str) -> bytes:
        pulled.append(name)
        over.set()
        return b"part"

    with pulling_within(PullLimit(over, None)), pytest.raises(RoundOverError):
        http_grid.pull_objects(list("abcdefgh"), pull, max_concurrent_pulls=1)
    assert pulled == ["a"]


def test_what_is_announced_and_not_there_is_waited_for_until_the_round_ends_and_no_longer() -> None:
    bound_for(LARGE)
    began = time.monotonic()
    limit = PullLimit(threading.Event(), began + 0.2)
    with pulling_within(limit), pytest.raises(ObjectPullError):
        http_grid.pull_objects(
            ["a"], never, initial_backoff=0.1, backoff_cap=0.1, max_tries_per_object=100
        )
    assert 0.2 <= time.monotonic() - began < 5.0


def failing(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://localhost")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(status))


def test_a_part_that_the_superlink_fails_to_give_is_asked_for_again() -> None:
    bound_for(LARGE)
    failures = [failing(500), failing(507)]

    def pull(_: str) -> bytes:
        if failures:
            raise failures.pop()
        return b"part"

    assert http_grid.pull_objects(["a"], pull, initial_backoff=0.01) == {"a": b"part"}


def test_a_part_that_the_superlink_refuses_is_not() -> None:
    bound_for(LARGE)

    def pull(_: str) -> bytes:
        raise failing(404)

    with pytest.raises(httpx.HTTPStatusError):
        http_grid.pull_objects(["a"], pull, initial_backoff=0.01)


def test_what_is_bounded_twice_has_the_second_bound() -> None:
    """Two studies may run in one process, one after the other."""
    bound_for({"w": LARGE["w"][:10]})
    bound_for(LARGE)
    message, _ = read(update(LARGE))
    assert isinstance(message, Message)


def test_an_order_is_not_concerned() -> None:
    theta = {"w": LARGE["w"][:10]}
    bound_for(theta)
    message, _ = read(encode_order(RoundOrder(Study(), 0, theta)))
    assert isinstance(message, Message)
    assert isinstance(message.content["theta"], ArrayRecord)
