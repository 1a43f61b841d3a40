"""What a hospital with a valid key can do to the coordinator: a study goes on while it tries."""

import http.client
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import push_object_contents_from_iterable
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supernode.fleet_http_connection import http_request_response

from real_federation import NGINX, STUDY, Federation, federation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]
GIB = 2**30
PIECE = bytes(2**16)
ROUNDS = 12
TWO_OF_THREE = STUDY.replace("quorum: 3", "quorum: 2").replace("deadline_s: 240", "deadline_s: 60")


def key_of(made: Federation, site: str) -> Any:
    text = (made.site(site) / "node" / "node.key").read_bytes()
    return serialization.load_ssh_private_key(text, password=None)


def signed(key: Any) -> dict[str, str]:
    """Return the headers by which the SuperLink knows a node."""
    timestamp = datetime.now(UTC).isoformat()
    return {
        "Content-Type": "application/protobuf",
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        TIMESTAMP_HEADER: timestamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, timestamp.encode())).decode(),
    }


def upload(made: Federation, key: Any, size: int, *, chunked: bool) -> int:
    """Push one object of that size, to the end whatever is answered; return the answer's status."""
    context = ssl.create_default_context(cafile=made.coordinator / "authority" / "ca.crt")
    connection = http.client.HTTPSConnection("127.0.0.1", made.port, context=context, timeout=60)
    headers = signed(key) | ({} if chunked else {"Content-Length": str(size)})
    body = (PIECE for _ in range(size // len(PIECE)))
    with closing(connection):
        connection.request("POST", "/v1/fleet/push-object", body, headers, encode_chunked=chunked)
        return connection.getresponse().status


@pytest.mark.parametrize("chunked", [False, True], ids=["length said", "length unsaid"])
def test_one_body_of_two_gigabytes_is_refused_and_nothing_of_it_is_held(
    running: Federation, chunked: bool
) -> None:
    key = key_of(running, running.sites[2])
    before = on_disk(running)
    with memory_of(running) as most:
        assert upload(running, key, 2 * GIB, chunked=chunked) == 413
    assert most["nginx"] < 64 * 2**20
    assert most["flower-superlink"] < 0.5 * GIB
    assert on_disk(running) - before < 32 * 2**20
    assert upload(running, key, 2**20, chunked=chunked) == 400  # not too large, but garbage


def on_disk(made: Federation) -> int:
    return sum(file.stat().st_size for file in made.coordinator.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("valid-key")
    study = TWO_OF_THREE.replace("rounds: 4", f"rounds: {ROUNDS}")
    with federation(folder, study=study) as made:
        made.run()
        made.until_round(1)
        made.end(made.sites[2])
        yield made


def as_node(made: Federation, site: str) -> AbstractContextManager[Any]:
    key = key_of(made, site)
    return http_request_response(
        f"127.0.0.1:{made.port}",
        insecure=False,
        root_certificates=(made.coordinator / "authority" / "ca.crt").read_bytes(),
        authentication_keys=(key, key.public_key()),
        max_retries=3,
    )


def reply_of(order: Message, n_bytes: int) -> Message:
    numbers = np.random.default_rng(0).integers(0, 256, n_bytes, dtype=np.uint8)
    reply = Message(RecordDict({"update": ArrayRecord({"delta": Array(numbers)})}), reply_to=order)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def test_a_reply_of_two_gigabytes_in_small_parts_is_refused_and_the_study_goes_on(
    running: Federation,
) -> None:
    made, hostile = running, running.sites[2]
    with memory_of(made) as most, as_node(made, hostile) as (_, receive, send, *_, push, _):
        got: list[Any] = []
        made.until(lambda: bool(got.extend(filter(None, [receive()])) or got), "an order")
        order = got[0][0]
        reply = reply_of(order, 2 * GIB)
        parts = get_all_nested_objects(reply)
        asked, session = send(reply, get_object_tree(reply), 1.0)
        assert len(asked) > 400
        push_object_contents_from_iterable(
            ((name, parts[name].deflate()) for name in parts if name in asked),
            partial(push, order.metadata.run_id, session),
        )
    made.until_finished()
    rounds = made.rounds()
    assert [one["round_index"] for one in rounds] == list(range(ROUNDS))
    assert not any(one["void"] for one in rounds)
    tried = [one for one in rounds if one["round_index"] > 0 and one["asked"] == 3]
    assert all(one["admitted"] == 2 for one in tried)
    assert {"size": 1} in [one["refused"] for one in tried]
    assert most["flwr-serverapp"] < 0.5 * GIB  # it has not taken the reply in
    assert most["flower-superlink"] < 1.5 * GIB
    assert (made.coordinator / "state" / "superlink.db").stat().st_size > GIB
    # on the disk it stays, as the threat model says


@contextmanager
def memory_of(made: Federation) -> Iterator[dict[str, int]]:
    """Give the most bytes that each of the coordinator's processes has had, until the end."""
    found: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            for program in ("nginx", "flower-superlink", "flwr-serverapp"):
                process = made.child("coordinator", program)
                try:
                    now = process.memory_info().rss if process else 0
                except psutil.NoSuchProcess:
                    continue
                found[program] = max(found.get(program, 0), now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
