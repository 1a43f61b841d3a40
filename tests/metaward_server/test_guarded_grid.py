"""Each reply is taken by itself: strangers' bytes end no study and spoil no other's reply."""

import json
import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.superlink.grid import http_grid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaward.study import Study
from metaward_server import app as server_app
from metaward_server import bounded_replies, guarded_grid, study_run
from metaward_server.admission import UNREADABLE_REPLY
from metaward_server.app import app
from metaward_server.guarded_grid import GuardedGrid
from superlink_of_one_run import THETA, Bytes, orders, outcomes


def saying(**metadata: Any) -> Bytes:
    """Return what changes what a message's own bytes say of it."""
    from flwr.proto.message_pb2 import Message as ProtoMessage

    def change(content: bytes) -> bytes:
        head, body = content.split(b"\0", 1)
        message = ProtoMessage.FromString(body)
        for name, value in metadata.items():
            setattr(message.metadata, name, value)
        changed = message.SerializeToString()
        words = head.split(b" ")
        return b" ".join([*words[:-1], str(len(changed)).encode()]) + b"\0" + changed

    return change


HOSTILE: dict[str, dict[str, Bytes]] = {
    "a header that is no protobuf": {"ConfigRecord": lambda c: c.split(b"\0")[0] + b"\0\xff\xff"},
    "arrays that are no JSON": {"ArrayRecord": lambda c: c.split(b"\0")[0] + b"\0{"},
    "a chunk that is something else": {"ArrayChunk": lambda c: b"ArrayRecord" + c[10:]},
    "an array without chunks": {"Array": lambda c: c.split(b"\0")[0] + b"\0{}"},
    "a kind that Flower has not": {"RecordDict": lambda c: b"Evil" + c},
    "no header": {"Message": lambda _: b"\0"},
    "another kind of object than a message": {"Message": lambda _: b"ConfigRecord  0\0"},
    "the name of another node": {"Message": saying(src_node_id=1)},
    "an answer to another order": {"Message": saying(reply_to_message_id="0" * 64)},
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
    for _ in range(2):
        assert outcomes(grid.send_and_receive(orders(), timeout=3.0)) == {1: "update", 3: "update"}
    assert not threads_beside(known, wait_s=9.0)
    assert "no message" not in caplog.text  # nothing is said of a node once the round is over


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


def test_after_each_reply_what_is_left_of_the_time_is_waited_and_not_all_of_it_again(
    scripted_grid: Any, honest_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, waited = [1000.0], []

    class QueueOfAnHour(queue.SimpleQueue[Any]):
        """An hour goes by with each reply."""

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            waited.append(timeout)
            now[0] += 3600.0
            return super().get(block, 60.0)

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
    monkeypatch.setattr(guarded_grid, "time", clock)
    monkeypatch.setattr(bounded_replies, "time", clock)
    monkeypatch.setattr(guarded_grid, "queue", SimpleNamespace(SimpleQueue=QueueOfAnHour))
    grid = GuardedGrid(scripted_grid(dict.fromkeys((1, 2, 3), honest_node)), poll_s=0.01)
    assert len(grid.send_and_receive(orders(), timeout=9000.0)) == 3
    assert waited == [9000.0, 5400.0, 1800.0]


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
