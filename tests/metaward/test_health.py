"""Whether a process of Flower answers: asked of Flower's own servicer, and of others."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server

from metaward.errors import ConfigError, FederationError
from metaward.health import (
    Answer,
    ask_health,
    ask_until_healthy,
    require_free,
    require_healthy,
    show_answers,
)


@pytest.fixture
def unused() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(servicer: HealthServicer | None) -> Iterator[int]:
    """Start a gRPC server with that servicer, or with none; give its port."""
    server = grpc.server(ThreadPoolExecutor(2))
    if servicer is not None:
        add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def saying(check: Callable[[], int]) -> HealthServicer:
    """Return a servicer whose status comes from ``check``."""
    servicer = HealthServicer()
    servicer.Check = lambda *_: HealthCheckResponse(status=check())
    return servicer


NOT_SERVING = saying(lambda: HealthCheckResponse.NOT_SERVING)


def test_flowers_own_health_server_says_that_it_serves(
    unused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "http_proxy", "grpc_proxy"):  # a hospital may need one to go out
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = run_health_server_grpc_no_tls(f"127.0.0.1:{unused}")
    try:
        answer = ask_health("SuperNode", unused)
    finally:
        server.stop(None).wait()
    assert answer == Answer("SuperNode", True, f"SERVING at 127.0.0.1:{unused}")
    assert ask_health("SuperNode", unused).said == f"no answer at 127.0.0.1:{unused} (unavailable)"


def test_who_says_that_it_does_not_serve_or_knows_no_health_is_not_healthy() -> None:
    with serving(NOT_SERVING) as port:
        assert ask_health("x", port) == Answer("x", False, f"NOT_SERVING at 127.0.0.1:{port}")
    with serving(None) as port:
        assert ask_health("x", port).said == f"no answer at 127.0.0.1:{port} (unimplemented)"


def test_a_process_that_is_stuck_costs_the_deadline_and_no_more() -> None:
    go_on = threading.Event()
    with serving(saying(lambda: int(go_on.wait(60)))) as port:
        before = time.monotonic()
        answer = ask_health("x", port, deadline_s=0.5)
        seconds = time.monotonic() - before
        go_on.set()
    assert (answer.healthy, "deadline exceeded" in answer.said) == (False, True)
    assert seconds < 5


def test_a_listener_that_says_nothing_costs_the_deadline_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = ask_health("x", silent.getsockname()[1], deadline_s=0.5)
    assert not answer.healthy


def test_all_that_do_not_serve_are_named_in_one_sentence() -> None:
    well, ill, worse = Answer("a", True, "s"), Answer("b", False, "t"), Answer("c", False, "u")
    require_healthy([well], where="w", next_step="n")
    with pytest.raises(FederationError, match=r"^w: b: t, c: u; expected .*; n$") as raised:
        require_healthy([well, ill, worse], where="w", next_step="n")
    assert raised.value.exit_code == 5


def test_what_is_shown_is_one_line_or_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    well, ill = Answer("a", True, "s"), Answer("b", False, "t")
    show_answers([well, well], as_json=False)
    assert capsys.readouterr().out == "a: s, a: s\n"
    show_answers([well, ill], as_json=False)
    assert capsys.readouterr().out == ""
    show_answers([well, ill], as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["healthy"] is False
    assert shown["answers"][1] == {"name": "b", "healthy": False, "said": "t"}


def test_a_port_that_another_process_has_is_said_before_anything_starts(unused: int) -> None:
    require_free(unused, key="health_port", where="site.yaml")
    with serving(NOT_SERVING) as port, pytest.raises(ConfigError, match=f"health_port {port}"):
        require_free(port, key="health_port", where="site.yaml")


def test_who_waits_asks_again_until_all_serve_or_the_time_is_over() -> None:
    told = iter([False, False, True])
    answers = ask_until_healthy(lambda: [Answer("a", next(told), "s")], wait_s=60, pause_s=0.01)
    assert [answer.healthy for answer in answers] == [True]
    asked: list[Answer] = []

    def ask() -> list[Answer]:
        asked.append(Answer("a", False, "t"))
        return asked[-1:]

    for number, once in enumerate((0, float("nan")), 1):
        assert not ask_until_healthy(ask, wait_s=once, pause_s=0.01)[0].healthy
        assert len(asked) == number
    assert not ask_until_healthy(ask, wait_s=0.1, pause_s=0.01)[0].healthy
    assert len(asked) > 3
