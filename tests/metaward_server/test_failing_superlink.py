"""A coordinator whose own SuperLink fails asks it again, and blames no node."""

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from metaward.study import Study
from metaward_server import app as server_app
from metaward_server import study_run
from metaward_server.admission import UNREADABLE_REPLY
from metaward_server.app import app
from metaward_server.failure_note import FAILURE_FILE
from metaward_server.guarded_grid import GuardedGrid
from superlink_of_one_run import (
    THETA,
    SuperLinkOfOneRun,
    orders,
    outcomes,
    superlink_says,
)

ALL = {1: "update", 2: "update", 3: "update"}


def failing(
    superlink: SuperLinkOfOneRun, method: str, status: int, times: int = 10**6
) -> list[Any]:
    """Let a method fail so many times before it works; return the list of what was asked of it."""
    works: Callable[[Any], Any] = getattr(superlink, method)
    asked: list[Any] = []

    def fails_at_first(request: Any) -> Any:
        asked.append(request)
        if len(asked) <= times:
            raise superlink_says(status)
        return works(request)

    setattr(superlink, method, fails_at_first)
    return asked


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("method", ["PushMessages", "PushObject", "PullMessages", "PullObject"])
@pytest.mark.parametrize("status", [500, 507])
def test_a_superlink_that_fails_costs_no_node_its_answer(
    connected: Any, caplog: pytest.LogCaptureFixture, method: str, status: int
) -> None:
    flowers_own = connected({})
    failing(flowers_own.__dict__["_client"], method, status, times=6)
    replies = GuardedGrid(flowers_own, poll_s=0.05).send_and_receive(orders(), timeout=15.0)
    assert outcomes(replies) == ALL
    assert caplog.text.count("the SuperLink failed") <= 3  # not at every look


def test_the_orders_that_are_pushed_again_are_the_same_messages(connected: Any) -> None:
    flowers_own = connected({})
    asked = failing(flowers_own.__dict__["_client"], "PushMessages", 500, times=2)
    GuardedGrid(flowers_own, poll_s=0.01).send_and_receive(orders(), timeout=15.0)
    assert len(asked) == 3
    assert len({request.SerializeToString() for request in asked}) == 1


@pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # alembic, of Flower
def test_flowers_superlink_keeps_a_message_that_is_pushed_twice_once(
    tmp_path: Path, scripted_grid: Any
) -> None:
    database = str(tmp_path / "state.db")
    state = LinkStateFactory(
        database, NoOpFederationManager(), ObjectStoreFactory(database)
    ).state()
    run = state.create_run(
        None, None, "a" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
    )
    node = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, secrets.token_bytes(32), 600.0)
    state.acknowledge_node_heartbeat(node, 600.0)
    scripted_grid({})  # makes this process the coordinator of a run
    TaskIdentity.run_id, TaskIdentity.node_id = run, SUPERLINK_NODE_ID
    order = Message(RecordDict(), node, "train", group_id="1")
    order.metadata.__dict__["_message_id"] = order.object_id
    tree, head = get_object_tree(order), remove_content_from_message(order)
    for session in (state.start_session(run), state.start_session(run)):
        stored, objects_to_push = state.store_message_and_object_tree(head, tree, session)
        assert stored
        assert objects_to_push  # none came at the first attempt, so all are asked for again
    assert state.num_message_ins() == 1


def test_a_superlink_that_cannot_say_who_is_there_is_asked_again(connected: Any) -> None:
    flowers_own = connected({})
    failing(flowers_own.__dict__["_client"], "GetNodes", 500, times=3)
    assert list(GuardedGrid(flowers_own, poll_s=0.01).get_node_ids()) == [1, 2, 3]


def test_a_superlink_that_fails_again_later_is_said_again(
    connected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    flowers_own = connected({})
    superlink = flowers_own.__dict__["_client"]
    works, grid = superlink.GetNodes, GuardedGrid(flowers_own, poll_s=0.01)
    for times_said in (1, 2):
        superlink.__dict__["GetNodes"] = works
        failing(superlink, "GetNodes", 500, times=2)
        assert list(grid.get_node_ids()) == [1, 2, 3]
        assert caplog.text.count("the SuperLink failed") == times_said


def test_a_part_of_an_order_that_the_superlink_could_not_store_is_pushed_again(
    connected: Any,
) -> None:
    flowers_own = connected({})
    superlink: SuperLinkOfOneRun = flowers_own.__dict__["_client"]
    store, refused = superlink.PushObject, []

    def no_room_at_first(request: PushObjectRequest) -> PushObjectResponse:
        if len(refused) < 3:
            refused.append(request.object_id)
            return PushObjectResponse(stored=False)  # how Flower's own says that its disk is full
        return store(request)

    superlink.__dict__["PushObject"] = no_room_at_first
    replies = GuardedGrid(flowers_own, poll_s=0.01).send_and_receive(orders(), timeout=15.0)
    assert outcomes(replies) == ALL
    assert superlink.pushed.keys() >= set(refused)


def test_a_superlink_that_gives_no_replies_until_the_deadline_blames_no_node(
    connected: Any,
) -> None:
    flowers_own = connected({})
    asked = failing(flowers_own.__dict__["_client"], "PullMessages", 500)
    grid = GuardedGrid(flowers_own, poll_s=0.05)
    assert grid.send_and_receive(orders(), timeout=0.5) == []
    assert len(asked) > 3


@pytest.mark.parametrize("method", ["PushMessages", "PushObject", "GetNodes"])
def test_a_superlink_that_stays_away_ends_the_run_and_blames_nobody(
    connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(study_run, "initial_theta", lambda _: THETA)
    monkeypatch.setattr(server_app, "initial_theta", lambda _: THETA)
    monkeypatch.setattr(
        server_app, "GuardedGrid", partial(GuardedGrid, poll_s=0.05, patience_s=0.3)
    )
    flowers_own = connected({})
    asked = failing(flowers_own.__dict__["_client"], method, 500)
    config = {"study": Study(rounds=1).model_dump_json(), "run-dir": str(tmp_path), "nodes": 3}
    with pytest.raises(httpx.HTTPStatusError):
        app(flowers_own, Context(1, 0, {}, RecordDict(), config))
    assert len(asked) > 3
    assert not (tmp_path / FAILURE_FILE).exists()  # so that the keeper begins another run
    assert not (tmp_path / "rounds.jsonl").read_text()  # no void round


@pytest.mark.parametrize("method", ["PushMessages", "GetNodes"])
def test_what_the_superlink_refuses_is_not_asked_again(connected: Any, method: str) -> None:
    flowers_own = connected({})
    asked = failing(flowers_own.__dict__["_client"], method, 400)
    grid = GuardedGrid(flowers_own, poll_s=0.01)
    with pytest.raises(httpx.HTTPStatusError):
        grid.get_node_ids() if method == "GetNodes" else grid.send_and_receive(orders(), timeout=9)
    assert len(asked) == 1


def test_a_reply_that_the_superlink_refuses_to_give_is_no_message(connected: Any) -> None:
    flowers_own = connected({})
    failing(flowers_own.__dict__["_client"], "PullMessages", 400)
    replies = GuardedGrid(flowers_own).send_and_receive(orders(), timeout=9)
    assert outcomes(replies) == dict.fromkeys((1, 2, 3), UNREADABLE_REPLY)


def test_a_lost_connection_of_the_coordinators_own_is_no_fault_of_a_node(
    scripted_grid: Any, honest_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = scripted_grid(dict.fromkeys((1, 2, 3), honest_node))

    def lost(_: Any) -> list[Message]:
        raise httpx.ConnectError("lost")

    monkeypatch.setattr(grid, "pull_messages", lost)
    with pytest.raises(httpx.ConnectError):
        GuardedGrid(grid).send_and_receive(orders(), timeout=4.0)
