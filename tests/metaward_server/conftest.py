"""Grids and studies for tests of the coordinator alone; on one grid nodes are functions."""

import dataclasses
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid

from metaward.arrays import Arrays
from metaward.progress import RoundEvent
from metaward.study import Study
from metaward.wire import RoundOrder, Update, decode_order, encode_update, largest_update
from metaward.wire_arrays import spec_of
from metaward_server.bounded_replies import bound_replies
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.outer_optimizers import initial_state
from metaward_server.rounds_log import RoundsLog
from metaward_server.strategy import MetaStrategy, StudyRecord
from played_studies import STUDY
from superlink_of_one_run import THETA, Bytes, SuperLinkOfOneRun

SPEC = {"w": (3,), "b": (2, 2)}

Answer = RecordDict | Error | None


def read_order(message: Message) -> RoundOrder:
    return decode_order(message.content, lambda _: SPEC)


def honest(message: Message) -> RecordDict:
    """An update that depends on node, round and theta."""
    return encode_update(honest_update(message))


def honest_update(message: Message) -> Update:
    order = read_order(message)
    rng = np.random.default_rng([message.metadata.dst_node_id, order.round_index])
    delta = {
        name: (leaf * np.float32(-0.1) + rng.standard_normal(leaf.shape)).astype(np.float32)
        for name, leaf in order.theta.items()
    }
    return Update(order.study.digest(), order.round_index, delta)


@dataclasses.dataclass
class ScriptedGrid(Grid):
    """Node ``i`` answers with ``nodes[i](message)``; ``reorder`` shuffles the replies."""

    nodes: dict[int, Callable[[Message], Answer]]
    reorder: Callable[[list[Message]], Sequence[Message]] = list
    sent: list[Message] = dataclasses.field(default_factory=list)
    timeouts: list[float | None] = dataclasses.field(default_factory=list)
    ready: dict[str, Message] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.set_run(Run.create_empty(1))

    def set_run(self, run: Run) -> None:
        self._run = run
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run.run_id, 0, 0

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            self.sent.append(message)
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            answer = self.nodes[message.metadata.dst_node_id](message)
            if answer is not None:
                reply = Message(answer, reply_to=message)
                self.ready[message.metadata.message_id] = reply
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.ready.pop(i) for i in message_ids if i in self.ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Sequence[Message]:
        self.timeouts.append(timeout)
        return self.reorder(self.pull_messages(self.push_messages(messages)))


@pytest.fixture
def theta() -> Arrays:
    return {
        "b": np.float32([[1.0, -1.0], [0.5, 0.25]]),
        "w": np.float32([0.1, 0.2, 0.3]),
    }


@pytest.fixture
def scripted_grid() -> type[ScriptedGrid]:
    return ScriptedGrid


@pytest.fixture
def honest_node() -> Callable[[Message], RecordDict]:
    return honest


@pytest.fixture
def honest_update_of() -> Callable[[Message], Update]:
    return honest_update


@pytest.fixture
def connected(scripted_grid: Any, honest_node: Any) -> Iterator[Callable[..., HttpGrid]]:
    """Give Flower's own HTTP grid, connected to a SuperLink of ours with nodes 1 to 3."""
    made: list[SuperLinkOfOneRun] = []
    scripted_grid({})  # makes this process the coordinator of a run

    def connect(tamper: dict[int, dict[str, Bytes]]) -> HttpGrid:
        grid = HttpGrid(token="t")
        grid.set_run(Run.create_empty(1))
        superlink = SuperLinkOfOneRun(honest_node, tamper)
        made.append(superlink)
        grid.__dict__["_client"] = superlink
        push = grid.push_messages

        def push_and_answer(messages: Any) -> Any:
            ids = push(messages)
            for message in messages:
                superlink.node_answers(message)
            return ids

        grid.__dict__["push_messages"] = push_and_answer
        return grid

    yield connect
    for superlink in made:  # whoever still waits for an object ends now, and not in a later test
        superlink.objects.clear()


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies are bounded as in the app, and Flower pauses for less than a second."""
    defaults = inflatable_utils.pull_objects.__kwdefaults__
    monkeypatch.setitem(defaults, "initial_backoff", 0.05)
    monkeypatch.setitem(defaults, "backoff_cap", 0.1)
    for name in ("pull_objects", "inflate_object_from_contents"):
        monkeypatch.setattr(http_grid, name, getattr(http_grid, name))  # put back afterwards
    bound_replies(largest_update(spec_of(THETA)))


@pytest.fixture
def play(tmp_path: Path, theta: Arrays) -> Callable[..., tuple[Arrays, list[RoundEvent]]]:
    """Play a study from its start on a grid; return the final theta and the events."""
    runs = itertools.count()

    def run(grid: Any, study: Study = STUDY, **extra: Any) -> tuple[Arrays, list[RoundEvent]]:
        folder = tmp_path / str(next(runs))
        folder.mkdir()
        events: list[RoundEvent] = []
        record = StudyRecord(
            CheckpointStore(folder / "checkpoints", study.digest()),
            RoundsLog(folder / "rounds.jsonl"),
            events.append,
        )
        extra = {"n_nodes": 1} | extra
        strategy = MetaStrategy(study, record, **extra)
        progress = strategy.start(grid, Progress(0, theta, initial_state(study.outer, theta)))
        assert progress.next_round == study.rounds
        return progress.theta, events

    return run
