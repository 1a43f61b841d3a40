"""Collect the replies of strangers so that none of them can spoil another's, or end the study.

Flower's grid makes messages of the bytes that sites have pushed, all that are there in one call,
and takes sender and order from the message's own bytes. Three things follow (Flower 1.41, tried):

- bytes that make no message raise inside that call: the run ends, and the replies that came along
  are lost, since they count as delivered;
- a message may claim any sender, and to answer the order of another node;
- a node that announces a message and then pushes its parts slowly, or not at all, keeps the call
  waiting far beyond the round's deadline.

So each reply is pulled alone, in a thread of its own, by the id of its order, for which the
SuperLink has checked the node that answers. What cannot be read, or claims something else, becomes
an error in that node's name; who is not there at the deadline is left behind, with all that was
pulled of it. Where the coordinator's own SuperLink fails (a full disk, a locked database), that
says nothing of any node, and it is asked again: for replies until the deadline; for nodes, and to
take the orders, for a minute. Longer it would be in vain: Flower gives up a run whose heartbeats
were not taken for so long, and whoever keeps the coordinator begins another at the newest
checkpoint. It keeps a message that is pushed twice once (tried); objects of one that a node fetched
between the two can stay in its database.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

import httpx  # comes with Flower, whose grid raises its errors
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.run import Run

from metaward.wire import SizeError
from metaward_server.admission import TOO_LARGE_REPLY, UNREADABLE_REPLY
from metaward_server.bounded_replies import (
    PullLimit,
    RoundOverError,
    pulling_within,
    superlink_failed,
)

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""Pause between two looks for a reply. Flower's own grid takes three seconds; a look costs the
SuperLink, which is on the same machine, a few milliseconds."""


PATIENCE_S = 60.0
"""How long a SuperLink may fail to say who is there, or to take the orders of a round."""

T = TypeVar("T")
Outcome: TypeAlias = "list[Message] | httpx.TransportError"


class GuardedGrid(Grid):
    """A grid whose ``send_and_receive`` takes each reply by itself.

    Args:
        grid: Does all the rest; is called by several threads at once.
        poll_s: Seconds between two looks for a reply.
        patience_s: Seconds that the SuperLink may fail to say which nodes are there, or to take
            orders.
    """

    def __init__(
        self, grid: Grid, *, poll_s: float = POLL_S, patience_s: float = PATIENCE_S
    ) -> None:
        self._grid = grid
        self._poll_s, self._patience_s = poll_s, patience_s
        self._has_failed = threading.Event()  # the SuperLink, at what it was asked last

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the messages belong to."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message; Flower prefers the constructor of ``Message`` by now."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are there.

        Raises:
            httpx.HTTPStatusError: The SuperLink refuses, or has failed for ``patience_s``.
        """
        return self._from_superlink(lambda: list(self._grid.get_node_ids()))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages and return their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, as the grid gives them."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and return the replies that come in time, each pulled by itself.

        Raises:
            httpx.TransportError: The coordinator's own connection is lost.
            httpx.HTTPStatusError: The SuperLink refuses the orders, or has failed to take them for
                ``patience_s``.
            ObjectPushError: Likewise.
        """
        sent = list(messages)
        ends = None if timeout is None else time.monotonic() + timeout
        pushed = set(self._from_superlink(lambda: self._grid.push_messages(sent)))
        waiting = sum(order.metadata.message_id in pushed for order in sent)
        outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        limit = PullLimit(threading.Event(), ends)
        for order in sent:
            if order.metadata.message_id in pushed:
                threading.Thread(
                    target=self._wait_for, args=(order, outcomes, limit), daemon=True
                ).start()
        replies: list[Message] = []
        try:
            for _ in range(waiting):
                outcome = outcomes.get(timeout=limit.left())
                if isinstance(outcome, httpx.TransportError):
                    raise outcome
                replies.extend(outcome)
        except queue.Empty:
            logger.info("%d of %d replies at the deadline", len(replies), len(sent))
        finally:
            limit.over.set()
        return replies

    def _from_superlink(self, ask: Callable[[], T]) -> T:
        """Ask until the SuperLink does its work, for ``patience_s``; then raise what it says."""
        self._has_failed.clear()
        ends = time.monotonic() + self._patience_s
        while True:
            try:
                return ask()
            except (httpx.HTTPStatusError, ObjectPushError) as error:
                if not superlink_failed(error) or time.monotonic() + self._poll_s > ends:
                    raise
            self._say_that_it_failed()
            time.sleep(self._poll_s)

    def _wait_for(
        self, order: Message, outcomes: "queue.SimpleQueue[Outcome]", limit: PullLimit
    ) -> None:
        """Run in a thread: look for the replies to one order until they are there."""
        while not limit.over.is_set():
            try:
                with pulling_within(limit):
                    replies = self._replies_to(order)
            except httpx.TransportError as error:
                outcomes.put(error)
                return
            if replies:
                outcomes.put(replies)
                return
            limit.over.wait(self._poll_s)

    def _replies_to(self, order: Message) -> list[Message]:
        try:
            replies = list(self._grid.pull_messages([order.metadata.message_id]))
        except httpx.TransportError:
            raise
        except RoundOverError:
            return []
        except SizeError:
            logger.warning("node %d: too large", order.metadata.dst_node_id)
            return [Message(Error(TOO_LARGE_REPLY), reply_to=order)]
        except Exception as error:  # noqa: BLE001 (whatever a stranger's bytes lead to)
            if superlink_failed(error):
                self._say_that_it_failed()
                return []
            kind = type(error).__name__  # its text may hold what was sent
            logger.warning("node %d: no message (%s)", order.metadata.dst_node_id, kind)
            return [_unreadable(order)]
        return [reply if _answers(reply, order) else _unreadable(order) for reply in replies]

    def _say_that_it_failed(self) -> None:
        """Say it once for each thing that it is asked, not at every look."""
        if not self._has_failed.is_set():
            self._has_failed.set()
            logger.warning("the SuperLink failed, its own log says why; it is asked again")


def _answers(reply: object, order: Message) -> bool:
    """Tell whether a reply says of itself what the SuperLink knows of it.

    An error may be reported by the SuperLink in the node's name; an update may not.
    """
    if not isinstance(reply, Message):  # Flower makes whatever kind of object the bytes name
        return False
    said, asked = reply.metadata, order.metadata
    from_node = reply.has_error() or said.src_node_id == asked.dst_node_id
    return said.reply_to_message_id == asked.message_id and from_node


def _unreadable(order: Message) -> Message:
    return Message(Error(UNREADABLE_REPLY), reply_to=order)
