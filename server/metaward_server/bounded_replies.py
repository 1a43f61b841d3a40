"""Bound what one reply can make the coordinator hold, and how long, before it is a message.

Flower cuts a message into objects that are uploaded one by one, pulls all that the sender has
announced, and puts them together; only then can the records be counted. Four things follow (Flower
1.41, tried):

- there is no bound on how many objects a message has: gigabytes are held if gigabytes were sent;
- an array names its chunks in a list, and may name one chunk a million times: ten megabytes on the
  wire become more than any machine has;
- parts that come slowly are waited for, and those that came are held, for up to two hours, however
  long ago the round ended;
- a part that the coordinator's own SuperLink fails to give ends the pull, and the reply is lost: it
  counts as delivered since it was announced.

Flower's grid does both through two functions that it has by name, and these are replaced here, in
the study's own process: bytes are counted as they come, and chunks as often as they are named; a
part that the SuperLink fails to give is asked for again; and all ends with the round. If a later
Flower has no such name the study does not begin.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import update_wrapper
from importlib import import_module
from typing import Any

import httpx
from flwr.app.message import Array
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, ObjectUnavailableError

from metaward.wire import SizeError

FLOWERS_GRID = "flwr.superlink.grid.http_grid"
OBJECTS_BESIDE_CHUNKS = 64
"""Objects of a message beside the chunks of its array; a true one has 5."""
CHUNK_BYTES = 2**20
"""A fifth of what Flower puts into one."""
OVERHEAD = 2
"""Times the records' bytes; a true message has 1.01 of them."""

Pull = Callable[[str], bytes]


class RoundOverError(Exception):
    """The round ended while the parts of a reply were still pulled."""


@dataclass(frozen=True)
class PullLimit:
    """How long the parts of a reply are pulled.

    Attributes:
        over: Set when the round has ended.
        ends: When it ends at the latest, in the seconds of ``time.monotonic``; None: no such time.
    """

    over: threading.Event
    ends: float | None

    def left(self) -> float | None:
        """Return the seconds until ``ends``."""
        return None if self.ends is None else max(0.0, self.ends - time.monotonic())


_limit: ContextVar[PullLimit | None] = ContextVar("limit", default=None)


@contextmanager
def pulling_within(limit: PullLimit) -> Iterator[None]:
    """Let what this thread pulls meanwhile end with the round."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def superlink_failed(error: BaseException) -> bool:
    """Tell whether it is the SuperLink that could not do its work: a full disk, a locked database.

    What it gets from a node it stores as bytes, so that this is seldom a node's doing. A part that
    it could not store it answers without an error; Flower then says that it was not pushed.
    """
    if isinstance(error, ObjectPushError):
        return True
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error


def bound_replies(largest: int) -> None:
    """Refuse replies that hold far more than ``largest`` bytes, in this process, from now on.

    Args:
        largest: Bytes of the records of an honest update, as :func:`metaward.wire.largest_update`.
    """
    most_bytes = OVERHEAD * largest
    most_objects = OBJECTS_BESIDE_CHUNKS + most_bytes // CHUNK_BYTES
    grid = import_module(FLOWERS_GRID)
    pull, inflate = _original(grid.pull_objects), _original(grid.inflate_object_from_contents)

    # Any: Flower's own, passed on
    def pull_bounded(object_ids: list[str], pull_object_fn: Pull, **options: Any) -> Any:
        if len(object_ids) > most_objects:
            raise _too_large(f"{len(object_ids)} parts", f"{most_objects} parts")
        limit = _limit.get()
        if limit is not None and limit.ends is not None:
            options["max_time"] = limit.left()
        return pull(object_ids, counted(pull_object_fn, most_bytes), **options)

    def inflate_bounded(object_id: str, contents: dict[str, bytes], **options: Any) -> Any:
        require_small(contents, most_bytes)
        return inflate(object_id, contents, **options)

    grid.pull_objects = update_wrapper(pull_bounded, pull)  # type: ignore[attr-defined]
    grid.inflate_object_from_contents = update_wrapper(  # type: ignore[attr-defined]
        inflate_bounded, inflate
    )


def _original(function: Callable[..., Any]) -> Callable[..., Any]:  # Any: Flower's own
    """Return what was replaced by an earlier call."""
    return getattr(function, "__wrapped__", function)


def counted(pull: Pull, most_bytes: int) -> Pull:
    """Return ``pull`` for the objects of one message: it raises once they are too many bytes.

    Raises:
        SizeError: They are. Flower pulls at most two at once, so no more than one is held beyond.
        RoundOverError: The round has ended.
        ObjectUnavailableError: Flower tries again.
    """
    total, lock, limit = 0, threading.Lock(), _limit.get()

    def pull_one(object_id: str) -> bytes:
        nonlocal total
        if limit is not None and limit.over.is_set():
            raise RoundOverError
        content = _pull_patiently(pull, object_id)
        with lock:
            total += len(content)
            if total > most_bytes:
                raise _too_large("more bytes", f"{most_bytes} bytes")
        return content

    return pull_one


def _pull_patiently(pull: Pull, object_id: str) -> bytes:
    try:
        return pull(object_id)
    except httpx.HTTPStatusError as error:
        if superlink_failed(error):
            raise ObjectUnavailableError(object_id) from None
        raise


def require_small(contents: Mapping[str, bytes], most_bytes: int) -> None:
    """Check how many bytes the arrays will have, by the chunks that they name.

    Raises:
        SizeError: Too many.
        ValueError: An array's description cannot be read. So do others of Python's own errors.
    """
    total = 0
    for content in contents.values():
        if get_object_type_from_object_content(content) != Array.__qualname__:
            continue
        children = get_object_children_ids_from_object_content(content)
        lengths = [len(contents[child]) for child in children]
        for number in json.loads(get_object_body(content, Array))["arraychunk_ids"]:
            total += lengths[number]
            if total > most_bytes:
                raise _too_large("more bytes", f"{most_bytes} bytes")


def _too_large(found: str, most: str) -> SizeError:
    return SizeError(found, expected=f"at most {most}", where="a node's reply")
