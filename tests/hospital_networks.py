"""Networks of a federation on one machine: a namespace for each party, bridges, firewalls, a proxy.

Nothing outside the namespaces is touched: the bridges are in one of their own. Root is needed.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from real_federation import Place

SBIN = "/usr/sbin:/usr/local/sbin:/sbin:/usr/bin:/bin"
SQUID_PORT, REFUSING_PORT = 3128, 3129
FIREWALL = """
table inet hospital {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
  }
  chain forward { type filter hook forward priority 0; policy drop; }
}
"""
"""Whatever a hospital asks is answered; nobody outside can begin a connection."""
SQUID = """
http_port {address}:{port}
http_port {address}:{refusing} name=refusing
acl wrong_door myportname refusing
acl hospitals src {inside}
acl coordinator dst {coordinator}
acl tunnel method CONNECT
http_access deny wrong_door
http_access allow hospitals coordinator tunnel
http_access deny all
cache deny all
pid_filename {folder}/squid.pid
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
shutdown_lifetime 0 seconds
cache_effective_user proxy
coredump_dir {folder}
"""


def what_is_missing(*programs: str) -> str:
    """Return why namespaces cannot be made here, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [program for program in programs if not shutil.which(program, path=SBIN)]
    return f"{', '.join(absent)} not installed" if absent else ""


def run(*command: object, stdin: str | None = None) -> str:
    done = subprocess.run(
        [*map(str, command)], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass
class Networks:
    """Namespaces that are made one after the other, and removed together."""

    prefix: str
    made: list[str] = field(default_factory=list)

    def name(self, who: str) -> str:
        return f"{self.prefix}-{who}"

    def place(self, who: str, **environment: str) -> Place:
        return Place(("ip", "netns", "exec", self.name(who)), environment)

    def namespace(self, who: str) -> None:
        run("ip", "netns", "add", self.name(who))
        self.made.append(self.name(who))
        run("ip", "-n", self.name(who), "link", "set", "lo", "up")

    def bridge(self, name: str) -> None:
        switch = self.name("switch")
        if switch not in self.made:
            self.namespace("switch")
        run("ip", "-n", switch, "link", "add", name, "type", "bridge")
        run("ip", "-n", switch, "link", "set", name, "up")

    def plug(self, who: str, bridge: str, address: str, device: str = "eth0") -> None:
        """Give a namespace a device on a bridge, with an address such as 10.77.0.1/24."""
        switch, port = self.name("switch"), f"{who}-{bridge}"[:15]
        run("ip", "-n", switch, "link", "add", port, "type", "veth",
            "peer", "name", device, "netns", self.name(who))  # fmt: skip
        run("ip", "-n", switch, "link", "set", port, "master", bridge, "up")
        run("ip", "-n", self.name(who), "address", "add", address, "dev", device)
        run("ip", "-n", self.name(who), "link", "set", device, "up")

    def firewall(self, who: str) -> None:
        run("ip", "netns", "exec", self.name(who), "nft", "-f", "-", stdin=FIREWALL)

    def link(self, who: str, state: str) -> None:
        """Cut a party off ("down"), or bring it back ("up")."""
        run("ip", "-n", self.name(who), "link", "set", "eth0", state)

    def listening(self, who: str) -> list[str]:
        """Return the addresses that anything in this namespace listens on."""
        lines = run("ip", "netns", "exec", self.name(who), "ss", "-Hltn").splitlines()
        return [line.split()[3] for line in lines]


@contextmanager
def networks() -> Iterator[Networks]:
    made = Networks(f"mw{os.getpid()}")
    try:
        yield made
    finally:
        for name in made.made:
            run("ip", "netns", "delete", name)


@contextmanager
def squid(place: Place, address: str, inside: str, coordinator: str) -> Iterator[Path]:
    """Run a proxy that lets one network through to one address, by CONNECT; give its log.

    At its second port nobody is let through to anywhere.
    """
    folder = Path(mkdtemp(prefix="metaward-squid-"))  # it refuses to run as root
    shutil.chown(folder, "proxy", "proxy")
    program = shutil.which("squid", path=SBIN)
    assert program is not None
    text = SQUID.format(
        address=address,
        port=SQUID_PORT,
        refusing=REFUSING_PORT,
        inside=inside,
        coordinator=coordinator,
        folder=folder,
    )
    (folder / "squid.conf").write_text(text)
    # a name of its own keeps it apart from a squid that the machine runs
    named = ("-n", f"metaward{os.getpid()}")
    command = [*place.within, program, "-N", *named, "-f", str(folder / "squid.conf")]
    log = folder / "access.log"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while not _listens(place, address):
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline, (folder / "output").read_text()
            time.sleep(0.2)
        yield log
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _listens(place: Place, address: str) -> bool:
    done = subprocess.run(
        [*place.within, "ss", "-Hltn"], capture_output=True, text=True, check=True
    )
    return f"{address}:{SQUID_PORT}" in done.stdout
