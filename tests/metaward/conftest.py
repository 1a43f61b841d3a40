from collections.abc import Callable

import pytest
from flwr.app import Message, Metadata, RecordDict


@pytest.fixture
def order_message() -> Callable[[RecordDict], Message]:
    """Wrap content in a message from the coordinator to node 5."""

    def wrap(content: RecordDict) -> Message:
        metadata = Metadata(
            run_id=1,
            message_id="m5",
            src_node_id=0,
            dst_node_id=5,
            reply_to_message_id="",
            group_id="1",
            created_at=1.0e9,
            ttl=60.0,
            message_type="train",
        )
        return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]

    return wrap
