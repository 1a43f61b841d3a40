"""Collect the replies of strangers so that none of them can spoil another's, or end the study.

Flower's grid makes messages of the bytes that sites have pushed, all that are there in one call,
and takes sender and order from the message's own bytes. Two things follow (Flower 1.41, tried):

- bytes that make no message raise inside that call: the run ends, and the replies that came along
  are lost, since they count as delivered;
- a message may claim any sender, and to answer the order of another node.

So each reply is pulled alone, by the id of its order, for which the SuperLink has checked the node
that answers. What cannot be read, or claims something else, becomes an error in that node's name.
"""

import logging
import time
from collections.abc import Callable, Iterable

import httpx  # comes with Flower, whose grid raises its errors
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from metaward_server.admission import UNREADABLE_REPLY

logger = logging.getLogger(__name__)

POLL_S = 3.0
"""Pause between two looks for replies, as in Flower's own grid."""


class GuardedGrid(Grid):
    """A grid whose ``send_and_receive`` takes each reply by itself.

    Args:
        grid: Does all the rest.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._clock = clock
        self._sleep = sleep

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
        """Return the nodes that are there."""
        return self._grid.get_node_ids()

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
        """
        waiting = list(messages)
        self._grid.push_messages(waiting)
        ends = None if timeout is None else self._clock() + timeout
        replies: list[Message] = []
        while waiting:
            still_waiting = []
            for order in waiting:
                came = self._replies_to(order)
                replies.extend(came)
                if not came:
                    still_waiting.append(order)
            waiting = still_waiting
            left = POLL_S if ends is None else ends - self._clock()
            if left <= 0:
                break
            if waiting:
                self._sleep(min(POLL_S, left))
        return replies

    def _replies_to(self, order: Message) -> list[Message]:
        try:
            replies = list(self._grid.pull_messages([order.metadata.message_id]))
        except httpx.TransportError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a stranger's bytes lead to)
            kind = type(error).__name__  # its text may hold what was sent
            logger.warning("node %d: no message (%s)", order.metadata.dst_node_id, kind)
            return [_unreadable(order)]
        return [reply if _answers(reply, order) else _unreadable(order) for reply in replies]


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
