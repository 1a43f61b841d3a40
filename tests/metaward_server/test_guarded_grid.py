"""Each reply is taken by itself: strangers' bytes end no study and spoil no other's reply."""

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaward.study import Study
from metaward.wire import RoundOrder, encode_order, largest_update, spec_of
from metaward_server import app as server_app
from metaward_server import study_run
from metaward_server.admission import UNREADABLE_REPLY
from metaward_server.app import app
from metaward_server.bounded_replies import bound_replies
from metaward_server.guarded_grid import GuardedGrid

THETA = {"b": np.zeros((2, 2), np.float32), "w": np.zeros(3, np.float32)}
Bytes = Callable[[bytes], bytes]


def renamed(content: bytes, new_ids: dict[bytes, bytes]) -> bytes:
    """Let bytes refer to objects by other ids; an id is the hash of the object's bytes."""
    for old, new in new_ids.items():
        content = content.replace(old, new)
    return content


def honest_bytes(content: bytes) -> bytes:
    return content


@dataclasses.dataclass
class SuperLinkOfOneRun:
    """What Flower's HTTP grid speaks with: nodes answer at once, with bytes of their choice.

    Attributes:
        answer: What a node's ClientApp would say.
        tamper: Node -> what it does to the bytes of its message, or of the objects within.
    """

    answer: Callable[[Message], RecordDict]
    tamper: dict[int, dict[str, Bytes]]
    replies: dict[str, Any] = dataclasses.field(default_factory=dict)
    objects: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def node_answers(self, order: Message) -> None:
        reply = Message(self.answer(order), reply_to=order)
        changes = self.tamper.get(order.metadata.dst_node_id, {})
        new_ids: dict[bytes, bytes] = {}
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            parts = get_all_nested_objects(reply)
            tree = get_object_tree(reply).SerializeToString()
            proto = message_to_proto(remove_content_from_message(reply))
        for object_id, part in parts.items():  # children come before what refers to them
            content = renamed(part.deflate(), new_ids)
            content = changes.get(type(part).__name__, honest_bytes)(content)
            new_ids[object_id.encode()] = hashlib.sha256(content).hexdigest().encode()
            self.objects[hashlib.sha256(content).hexdigest()] = content
        proto.metadata.message_id = renamed(proto.metadata.message_id.encode(), new_ids).decode()
        self.replies[order.metadata.message_id] = (
            proto,
            ObjectTree.FromString(renamed(tree, new_ids)),
        )

    PushObject = None  # nothing is asked for

    def PushMessages(self, request: PushAppMessagesRequest) -> PushAppMessagesResponse:  # noqa: N802
        return PushAppMessagesResponse(
            message_ids=[message.metadata.message_id for message in request.messages_list]
        )

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802
        found = [self.replies.pop(i) for i in request.message_ids if i in self.replies]
        return PullAppMessagesResponse(
            messages_list=[message for message, _ in found],
            message_object_trees=[tree for _, tree in found],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        if not self.objects[request.object_id]:  # announced, and never pushed
            return PullObjectResponse(object_found=True, object_available=False)
        return PullObjectResponse(
            object_found=True,
            object_available=True,
            object_content=self.objects[request.object_id],
        )

    def ConfirmMessageReceived(  # noqa: N802
        self, _: ConfirmMessageReceivedRequest
    ) -> ConfirmMessageReceivedResponse:
        return ConfirmMessageReceivedResponse()


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
        grid.__dict__["get_node_ids"] = lambda: [1, 2, 3]
        return grid

    yield connect
    for superlink in made:  # whoever still waits for an object ends now, and not in a later test
        superlink.objects.clear()


def orders() -> list[Message]:
    content = encode_order(RoundOrder(Study(), 0, THETA))
    return [Message(content, node, "train", group_id="1") for node in (1, 2, 3)]


def outcomes(replies: list[Message]) -> dict[int, object]:
    return {
        reply.metadata.src_node_id: reply.error.code if reply.has_error() else "update"
        for reply in replies
    }


def as_if_of_node_1(content: bytes) -> bytes:
    """Change the sender that a message's own bytes name."""
    from flwr.proto.message_pb2 import Message as ProtoMessage

    head, body = content.split(b"\0", 1)
    message = ProtoMessage.FromString(body)
    message.metadata.src_node_id = 1
    changed = message.SerializeToString()
    words = head.split(b" ")
    return b" ".join([*words[:-1], str(len(changed)).encode()]) + b"\0" + changed


HOSTILE: dict[str, dict[str, Bytes]] = {
    "a header that is no protobuf": {"ConfigRecord": lambda c: c.split(b"\0")[0] + b"\0\xff\xff"},
    "arrays that are no JSON": {"ArrayRecord": lambda c: c.split(b"\0")[0] + b"\0{"},
    "a chunk that is something else": {"ArrayChunk": lambda c: b"ArrayRecord" + c[10:]},
    "an array without chunks": {"Array": lambda c: c.split(b"\0")[0] + b"\0{}"},
    "a kind that Flower has not": {"RecordDict": lambda c: b"Evil" + c},
    "no header": {"Message": lambda _: b"\0"},
    "another kind of object than a message": {"Message": lambda _: b"ConfigRecord  0\0"},
    "the name of another node": {"Message": as_if_of_node_1},
}


def test_flowers_own_grid_gives_every_honest_reply(connected: Any) -> None:
    replies = GuardedGrid(connected({})).send_and_receive(orders(), timeout=9)
    assert outcomes(replies) == {1: "update", 2: "update", 3: "update"}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_makes_no_honest_message_costs_its_own_node_only(kind: str, connected: Any) -> None:
    grid = GuardedGrid(connected({2: HOSTILE[kind]}))
    replies = grid.send_and_receive(orders(), timeout=9)
    assert outcomes(replies) == {1: "update", 2: UNREADABLE_REPLY, 3: "update"}


def test_without_the_guard_one_such_reply_ends_the_run(connected: Any) -> None:
    grid = connected({2: HOSTILE["an array without chunks"]})
    with pytest.raises(KeyError):
        grid.send_and_receive(orders(), timeout=9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(["Message", "RecordDict", "ConfigRecord", "ArrayRecord", "Array"]),
    junk=st.binary(min_size=1, max_size=60),
    keep_head=st.booleans(),
)
def test_no_string_of_bytes_ends_the_wait_for_replies(
    kind: str, junk: bytes, keep_head: bool, connected: Any
) -> None:
    def change(content: bytes) -> bytes:
        return content.split(b"\0", 1)[0] + b"\0" + junk if keep_head else junk

    grid = GuardedGrid(connected({2: {kind: change}}))
    found = outcomes(grid.send_and_receive(orders(), timeout=9))
    assert (found[1], found[3]) == ("update", "update")
    assert 2 in found


def test_the_text_of_what_went_wrong_is_not_logged(
    connected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    grid = GuardedGrid(connected({2: {"Message": lambda _: b"DOE^JOHN"}}))
    grid.send_and_receive(orders(), timeout=9)
    assert "node 2" in caplog.text
    assert "DOE" not in caplog.text


def test_the_app_refuses_it_with_a_reason_and_the_study_goes_on(
    connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_run, "initial_theta", lambda _: THETA)
    study = Study(rounds=2)
    config = {
        "study": study.model_dump_json(),
        "run-dir": str(tmp_path),
        "nodes": 3,
        "resume": False,
    }
    app(connected({2: HOSTILE["no header"]}), Context(1, 0, {}, RecordDict(), config))
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [line["admitted"] for line in lines] == [2, 2]
    assert [line["refused_nodes"] for line in lines] == [{"unreadable": [2]}] * 2


def many_times(content: bytes) -> bytes:
    """Let an array name its one chunk a million times."""
    head, body = content.split(b"\0", 1)
    described = json.loads(body)
    described["arraychunk_ids"] *= 1_000_000
    body = json.dumps(described).encode()
    return b" ".join([*head.split(b" ")[:-1], str(len(body)).encode()]) + b"\0" + body


def test_the_app_refuses_what_would_fill_its_memory(
    connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pull_objects", "inflate_object_from_contents"):
        monkeypatch.setattr(http_grid, name, getattr(http_grid, name))  # put back afterwards
    monkeypatch.setattr(study_run, "initial_theta", lambda _: THETA)
    monkeypatch.setattr(server_app, "initial_theta", lambda _: THETA)
    study = Study(rounds=1)
    config = {"study": study.model_dump_json(), "run-dir": str(tmp_path), "nodes": 3}
    app(connected({2: {"Array": many_times}}), Context(1, 0, {}, RecordDict(), config))
    [line] = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert (line["admitted"], line["refused_nodes"]) == (2, {"size": [2]})


def test_a_message_that_is_announced_and_never_pushed_keeps_nobody_waiting_beyond_the_deadline(
    connected: Any,
) -> None:
    grid = GuardedGrid(connected({2: {"Array": lambda _: b""}}))
    began = time.monotonic()
    replies = grid.send_and_receive(orders(), timeout=2.0)
    assert time.monotonic() - began < 8.0  # Flower tries for more than an hour
    assert outcomes(replies) == {1: "update", 3: "update"}


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies are bounded as in the app, and Flower pauses for less than a second."""
    defaults = inflatable_utils.pull_objects.__kwdefaults__
    monkeypatch.setitem(defaults, "initial_backoff", 0.05)
    monkeypatch.setitem(defaults, "backoff_cap", 0.1)
    for name in ("pull_objects", "inflate_object_from_contents"):
        monkeypatch.setattr(http_grid, name, getattr(http_grid, name))  # put back afterwards
    bound_replies(largest_update(spec_of(THETA)))


def threads_beside(known: set[threading.Thread], *, wait_s: float) -> set[threading.Thread]:
    """Return the threads that were started since and are still there after a while."""
    until = time.monotonic() + wait_s
    for thread in set(threading.enumerate()) - known:
        thread.join(max(0.0, until - time.monotonic()))
    return set(threading.enumerate()) - known


@pytest.mark.usefixtures("bounded")
def test_of_a_reply_that_is_left_behind_no_thread_stays_and_so_no_memory(
    connected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    known = set(threading.enumerate())
    grid = GuardedGrid(connected({2: {"Array": lambda _: b""}}), poll_s=0.05)
    for _ in range(3):
        assert outcomes(grid.send_and_receive(orders(), timeout=1.0)) == {1: "update", 3: "update"}
    assert not threads_beside(known, wait_s=9.0)
    assert "no message" not in caplog.text  # nothing is said of a node once the round is over


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("method", ["PullMessages", "PullObject"])
@pytest.mark.parametrize("status", [500, 507])
def test_a_superlink_that_fails_costs_no_node_its_answer(
    connected: Any, caplog: pytest.LogCaptureFixture, method: str, status: int
) -> None:
    flowers_own = connected({})
    superlink = flowers_own.__dict__["_client"]
    works, failures = getattr(superlink, method), list(range(6))

    def fails_at_first(request: Any) -> Any:
        if failures:
            failures.pop()
            raise superlink_says(status)
        return works(request)

    setattr(superlink, method, fails_at_first)
    replies = GuardedGrid(flowers_own, poll_s=0.05).send_and_receive(orders(), timeout=15.0)
    assert outcomes(replies) == {1: "update", 2: "update", 3: "update"}
    assert caplog.text.count("the SuperLink failed") <= 3  # not at every look


def superlink_says(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://localhost")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(status))


def test_a_superlink_that_fails_until_the_deadline_blames_no_node(connected: Any) -> None:
    flowers_own = connected({})

    def fails(_: Any) -> Any:
        raise superlink_says(500)

    flowers_own.__dict__["_client"].PullMessages = fails
    grid = GuardedGrid(flowers_own, poll_s=0.05)
    assert grid.send_and_receive(orders(), timeout=0.5) == []


def test_what_the_superlink_refuses_is_no_message(connected: Any) -> None:
    flowers_own = connected({})

    def refuses(_: Any) -> Any:
        raise superlink_says(400)

    flowers_own.__dict__["_client"].PullMessages = refuses
    replies = GuardedGrid(flowers_own).send_and_receive(orders(), timeout=9)
    assert outcomes(replies) == dict.fromkeys((1, 2, 3), UNREADABLE_REPLY)


def test_the_wait_ends_at_the_deadline_or_when_all_have_answered(
    scripted_grid: Any, honest_node: Any
) -> None:
    silent = GuardedGrid(scripted_grid({1: honest_node, 2: lambda _: None, 3: honest_node}))
    began = time.monotonic()
    assert outcomes(silent.send_and_receive(orders(), timeout=0.5)) == {1: "update", 3: "update"}
    assert time.monotonic() - began >= 0.5
    grid = GuardedGrid(scripted_grid(dict.fromkeys((1, 2, 3), honest_node)))
    began = time.monotonic()
    assert len(grid.send_and_receive(orders(), timeout=600.0)) == 3
    assert time.monotonic() - began < 60


def test_a_late_reply_is_found_at_a_later_look(scripted_grid: Any, honest_node: Any) -> None:
    grid = scripted_grid(dict.fromkeys((1, 2, 3), honest_node))
    looks: list[str] = []
    pull = grid.pull_messages

    def pull_at_the_third_look(ids: list[str]) -> list[Message]:
        looks.extend(ids)
        return pull(ids) if looks.count(ids[0]) == 3 else []

    grid.pull_messages = pull_at_the_third_look
    replies = GuardedGrid(grid, poll_s=0.01).send_and_receive(orders(), timeout=60.0)
    assert outcomes(replies) == {1: "update", 2: "update", 3: "update"}


def test_a_lost_connection_of_the_coordinators_own_is_no_fault_of_a_node(
    scripted_grid: Any, honest_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = scripted_grid(dict.fromkeys((1, 2, 3), honest_node))

    def lost(_: Any) -> list[Message]:
        raise httpx.ConnectError("lost")

    monkeypatch.setattr(grid, "pull_messages", lost)
    with pytest.raises(httpx.ConnectError):
        GuardedGrid(grid).send_and_receive(orders(), timeout=4.0)
