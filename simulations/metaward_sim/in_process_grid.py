"""A Flower grid on this machine: a node is a row of settings, a message is a job for a worker.

Built on Flower's public ``Grid`` interface, without Ray, sockets or a database. Every message is
pickled on its way to a worker process, so that neither side can change what the other holds; an
exception becomes an error reply, as in deployment, without the exception's text.
"""

import importlib
import pickle
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from flwr.app import Context, Error, Message, Metadata, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from metaward.errors import FederationError
from metaward.workers import WorkerPool

COORDINATOR_ID = 0
RUN_ID = 1

NodeConfig = Mapping[str, bool | float | int | str]


class InProcessGrid(Grid):
    """Nodes 1..N, whose ClientApp runs in a pool of worker processes.

    ``Context.state`` is fresh for every message: what must survive belongs on a site's disk.

    Args:
        client_app: Where the ClientApp is, as "module:attribute"; imported once per worker.
        node_configs: Settings of node 1, 2, ...
        pool: Runs the nodes; the caller closes it.
    """

    def __init__(
        self, client_app: str, node_configs: Sequence[NodeConfig], pool: WorkerPool
    ) -> None:
        self._client_app = client_app
        self._node_configs = dict(enumerate(node_configs, start=1))
        self._pool = pool
        self._pending: dict[str, tuple[Metadata, Future[Message]]] = {}
        self.set_run(Run.create_empty(RUN_ID))

    def set_run(self, run: Run) -> None:
        """Make this process the coordinator of ``run``: ``Message`` takes its sender from there."""
        self._run = run
        TaskIdentity.run_id = run.run_id
        TaskIdentity.node_id = COORDINATOR_ID
        TaskIdentity.task_id = 0

    @property
    def run(self) -> Run:
        """The run that the messages belong to."""
        return self._run

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

    def get_node_ids(self) -> list[int]:
        """Return 1..N."""
        return list(self._node_configs)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue one job per message and return the messages' ids.

        Content that several messages share is pickled once, now: later changes do not reach the
        nodes.
        """
        pickled: dict[int, bytes] = {}
        ids = []
        for message in messages:
            content = message.content
            if id(content) not in pickled:
                pickled[id(content)] = pickle.dumps(content)
            metadata = message.metadata
            metadata.__dict__["_message_id"] = uuid.uuid4().hex  # as Flower's own grids do
            node = metadata.dst_node_id
            future = self._pool.submit_to(
                node,
                run_client_app,
                self._client_app,
                metadata,
                pickled[id(content)],
                dict(self._node_configs[node]),
            )
            self._pending[metadata.message_id] = (metadata, future)
            ids.append(metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, each once."""
        replies = []
        for message_id in message_ids:
            entry = self._pending.get(message_id)
            if entry is not None and entry[1].done():
                del self._pending[message_id]
                replies.append(_reply_of(*entry))
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and return the replies that come in time.

        A node that is late is stopped: its reply is dropped, and the worker that runs it is killed
        and replaced, so that nothing of this round runs into the next.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            futures = [self._pending[message_id][1] for message_id in waiting]
            wait(futures, timeout=left, return_when=FIRST_COMPLETED)
            came = self.pull_messages(waiting)
            replies.extend(came)
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
        for message_id in waiting:
            _, future = self._pending.pop(message_id)
            self._pool.abandon(future)
        return replies


def run_client_app(
    client_app: str, metadata: Metadata, content: bytes, node_config: UserConfig
) -> Message:
    """Run in a worker: give one message to the ClientApp and return its reply."""
    message = _message(metadata, pickle.loads(content))  # noqa: S301 (from our own parent)
    context = Context(
        run_id=metadata.run_id,
        node_id=metadata.dst_node_id,
        node_config=node_config,
        state=RecordDict(),
        run_config={},
    )
    try:
        return _load(client_app)(message, context)
    except Exception:  # noqa: BLE001 (as a SuperNode does, but without the exception's text)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), reply_to=message)


def _load(reference: str) -> ClientApp:
    module, attribute = reference.split(":")
    app = getattr(importlib.import_module(module), attribute)
    assert isinstance(app, ClientApp)
    return app


def _message(metadata: Metadata, content: RecordDict) -> Message:
    # The constructor takes metadata, as Flower's own make_message does; its overloads omit it.
    return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]


def _reply_of(metadata: Metadata, future: "Future[Message]") -> Message:
    try:
        return future.result()
    except FederationError:
        error = Error(ErrorCode.CLIENT_APP_CRASHED)
        return Message(error, reply_to=_message(metadata, RecordDict()))
