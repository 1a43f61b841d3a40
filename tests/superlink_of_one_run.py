"""What Flower's own HTTP grid speaks with: a SuperLink of one run, whose nodes answer at once."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    GetNodesRequest,
    GetNodesResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)

from metaward.study import Study
from metaward.wire import RoundOrder, encode_order

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
        replies: Order's id -> the reply to it, until it is pulled.
        objects: What the replies consist of.
        pushed: What the orders consist of.
    """

    answer: Callable[[Message], RecordDict]
    tamper: dict[int, dict[str, Bytes]]
    replies: dict[str, Any] = dataclasses.field(default_factory=dict)
    objects: dict[str, bytes] = dataclasses.field(default_factory=dict)
    pushed: dict[str, bytes] = dataclasses.field(default_factory=dict)

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

    def GetNodes(self, _: GetNodesRequest) -> GetNodesResponse:  # noqa: N802
        return GetNodesResponse(nodes=[NodeInfo(node_id=node) for node in (1, 2, 3)])

    def PushMessages(self, request: PushAppMessagesRequest) -> PushAppMessagesResponse:  # noqa: N802
        parts = [
            part.object_id
            for tree in request.message_object_trees
            for part in iterate_object_tree(tree)
        ]
        return PushAppMessagesResponse(
            message_ids=[message.metadata.message_id for message in request.messages_list],
            objects_to_push=sorted(set(parts) - self.pushed.keys()),
            session_id="one",
        )

    def PushObject(self, request: PushObjectRequest) -> PushObjectResponse:  # noqa: N802
        self.pushed[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

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


def orders() -> list[Message]:
    content = encode_order(RoundOrder(Study(), 0, THETA))
    return [Message(content, node, "train", group_id="1") for node in (1, 2, 3)]


def outcomes(replies: list[Message]) -> dict[int, object]:
    return {
        reply.metadata.src_node_id: reply.error.code if reply.has_error() else "update"
        for reply in replies
    }


def superlink_says(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://localhost")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(status))
