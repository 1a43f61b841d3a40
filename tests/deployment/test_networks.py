"""Hospitals in networks of their own: a firewall that lets nothing in, and a proxy as only way out.

Two hospitals reach the coordinator directly; the third has a route to a proxy and to nothing else.
One study runs while they are looked at, cut off and brought back.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hospital_networks import (
    REFUSING_PORT,
    SQUID_PORT,
    Networks,
    networks,
    squid,
    what_is_missing,
)
from metaward_client.privacy.ledger import read_ledger
from real_federation import COORDINATOR, NGINX, PRIVATE, Federation, Place, federation

MISSING = what_is_missing("ip", "nft", "ss", "squid") or ("" if NGINX else "nginx not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

HUB, PROXY = "10.77.0.1", "10.78.0.1"
DIRECT = {"0": "10.77.0.11", "1": "10.77.0.12"}
LOOPBACK = ("127.0.0.1:", "[::ffff:127.0.0.1]:")
"""The same address; a gRPC server binds it by its IPv6 name."""
ROUNDS = 10
STUDY = f"""\
name: first
rounds: {ROUNDS}
model: {{filters: 8, image_size: 32, groups: 2}}
learner: {{name: fomaml, n_way: 2, n_shot: 1, n_query: 1, inner_steps: 1, episodes: 1}}
round: {{quorum: 2, deadline_s: 75, max_void_rounds: 10}}
"""


@dataclass
class InNetworks:
    """The federation, its networks, and what was seen before everything was started."""

    federation: Federation
    networks: Networks
    proxy_log: Path
    without_proxy: Place
    said_without_proxy: list[str] = field(default_factory=list)

    def site(self, number: int) -> str:
        return self.federation.sites[number]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InNetworks]:
    folder = tmp_path_factory.mktemp("networks")
    with networks() as made:
        _lay(made)
        through = dict.fromkeys(("https_proxy", "http_proxy"), f"http://{PROXY}:{SQUID_PORT}")
        places = {who: made.place(who) for who in (COORDINATOR, *DIRECT)}
        places["2"] = made.place("2", **through)
        with squid(made.place("proxy"), PROXY, "10.78.0.0/24", HUB) as log:
            said: list[str] = []
            with federation(
                folder,
                study=STUDY,
                host=HUB,
                places=places,
                privacy={0: PRIVATE},
                before_start=lambda it: said.append(_started_without_proxy(it, made.place("2"))),
            ) as it:
                it.run()
                yield InNetworks(it, made, log, made.place("2"), said)


def _lay(made: Networks) -> None:
    made.bridge("out")
    made.bridge("in")
    for who, address in {COORDINATOR: HUB, "proxy": "10.77.0.3", **DIRECT}.items():
        made.namespace(who)
        made.plug(who, "out", f"{address}/24")
    made.plug("proxy", "in", f"{PROXY}/24", "eth1")
    made.namespace("2")
    made.plug("2", "in", "10.78.0.11/24")
    for who in ("0", "1", "2"):
        made.firewall(who)


def _started_without_proxy(it: Federation, place: Place) -> str:
    name = it.sites[2]
    with_proxy, it.places[name] = it.places[name], place
    it.start(name)
    it.until(lambda: "cannot be reached" in it.said(name), "a sentence", wait_s=60)
    it.end(name)
    it.places[name] = with_proxy
    return it.said(name)


def lines_of_check(it: Federation, name: str, place: Place) -> tuple[int, dict[str, str]]:
    done = subprocess.run(
        place.command("site", "check", it.site(name), "--json"),
        capture_output=True, text=True, check=False, env=place.variables,
    )  # fmt: skip
    return done.returncode, {one["name"]: one["said"] for one in json.loads(done.stdout)}


def test_a_hospital_with_no_way_out_but_a_proxy_takes_part_through_it(running: InNetworks) -> None:
    it, name = running.federation, running.site(2)
    it.until(lambda: any(order["outcome"] == "sent" for order in it.orders(name)), "an update")
    code, said = lines_of_check(it, name, it.place(name))
    expected = f"reached over TLS through the proxy {PROXY}:{SQUID_PORT}; "
    assert (code, said["coordinator"]) == (0, expected + "its control interface is shut")
    requests = running.proxy_log.read_text().split("\n")
    # what the node's own two processes say to each other does not pass the proxy
    assert {line.split()[6] for line in requests if line} == {f"{HUB}:{it.port}"}
    assert {line.split()[5] for line in requests if line} == {"CONNECT"}


def test_without_the_proxy_one_sentence_says_so(running: InNetworks) -> None:
    it, name = running.federation, running.site(2)
    sentence = f"{HUB}:{it.port} cannot be reached (Network is unreachable)"
    code, said = lines_of_check(it, name, running.without_proxy)
    assert (code, said["coordinator"]) == (5, sentence)
    [line] = [line for line in running.said_without_proxy[0].splitlines() if "reached" in line]
    assert line.startswith(f"coordinator: {sentence}. ")
    assert "set https_proxy" in line


def test_a_proxy_that_refuses_is_named_with_its_answer(running: InNetworks) -> None:
    it, proxy = running.federation, f"{PROXY}:{REFUSING_PORT}"
    place = running.networks.place("2", https_proxy=f"http://{proxy}")
    code, said = lines_of_check(it, running.site(2), place)
    sentence = f"the proxy {proxy} refuses the way to {HUB}:{it.port} (403 Forbidden)"
    assert (code, said["coordinator"]) == (5, sentence)


def test_nobody_can_connect_to_a_hospital(running: InNetworks) -> None:
    for who, address in DIRECT.items():
        listening = running.networks.listening(who)
        assert listening  # on loopback, for the node's own processes
        assert all(one.startswith(LOOPBACK) for one in listening), listening
        # the firewall too: what listens on every address is not reached from outside
        with _listener(running.networks.place(who)) as port:
            assert _connects(running.networks.place(who), address, port)
            assert not _connects(running.networks.place(COORDINATOR), address, port)
    assert _connects(running.networks.place("0"), HUB, running.federation.port)


def test_a_hospital_that_is_cut_off_comes_back_and_no_round_counts_twice(
    running: InNetworks,
) -> None:
    it, networks_, away = running.federation, running.networks, running.site(0)
    it.until(lambda: any(one["admitted"] == 3 for one in it.rounds()), "a round with all three")
    networks_.link("0", "down")
    it.until(lambda: any(one["admitted"] == 2 for one in it.rounds()), "a round without it")
    it.until(lambda: "cannot be reached" in it.said(away), "a sentence", wait_s=90)
    networks_.link("0", "up")
    cut = it.rounds_done()
    it.until_finished()
    rounds = it.rounds()
    assert [one["round_index"] for one in rounds] == list(range(ROUNDS))
    assert any(one["admitted"] == 3 for one in rounds[cut:]), rounds
    assert "coordinator: in order again" in it.said(away)
    site = it.site(away)
    releases = read_ledger(site / "ledger", site / "witness").releases
    charged = Counter(release.round.round_index for release in releases)
    sent = {one["round_index"] for one in it.orders(away) if one["outcome"].startswith("sent")}
    assert charged == Counter(sent)  # each round once


def _connects(place: Place, address: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({address!r}, {port}), 3).close()"
    command = [*place.within, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def _listener(place: Place) -> Iterator[int]:
    """Listen on all addresses of a namespace; give the port."""
    code = (
        "import socket, time; s = socket.create_server(('0.0.0.0', 0)); "
        "print(s.getsockname()[1], flush=True); time.sleep(600)"
    )
    command = [*place.within, sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()
