"""How long the ledger takes: an append, a round's reservation in a fresh process, opening it.

    python benchmarks/bench_ledger.py [--quick]

All on the disk of the temporary folder (TMPDIR), with every fsync. "Reserve in a fresh process" is
what a hospital's client does in every round: import the ledger, lock it, verify every entry, find
that the round fits, and charge it. Beside it: the time of an empty Python process, and of asking
the accountant, which happens once per study and seldom after.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from figures import save
from metaward_client.privacy.ledger import Ledger, Replay, RoundId, read_ledger
from metaward_client.privacy.ledger.chain import Kind
from metaward_client.privacy.ledger.clock import utc_now
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.journal import open_journal
from metaward_client.privacy.ledger.snapshot import verify_ledger
from metaward_client.privacy.terms import Budget, Terms

BUDGET = Budget(8.0, 1e-6)
TERMS = Terms("dp-sgd", 4.0, 0.01, 5, 1.0, 10.0)
"""More than ten thousand rounds of them fit."""
STUDY = "a" * 64
REPLY = bytes(450_000)
"""Some 112,000 parameters in float32."""

IN_A_FRESH_PROCESS = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from metaward_client.privacy.ledger import Ledger, RoundId
from metaward_client.privacy.terms import Budget, Terms
imported = time.perf_counter()
terms = Terms("dp-sgd", 4.0, 0.01, 5, 1.0, 10.0)
with Ledger.open(Path(sys.argv[1]), Path(sys.argv[2])) as ledger:
    opened = time.perf_counter()
    ledger.reserve(RoundId("a" * 64, int(sys.argv[3])), terms, Budget(8.0, 1e-6))
    reserved = time.perf_counter()
print(imported - began, opened - imported, reserved - opened)
"""


class Place:
    """A ledger that grows."""

    def __init__(self, folder: Path) -> None:
        self.ledger, self.witness = folder / "ledger", folder / "witness"
        self.rounds = 0
        Ledger.create(self.ledger, self.witness, BUDGET)

    def answer(self, rounds: int, reply: bytes = b"reply") -> tuple[list[float], list[float]]:
        """Answer rounds under one lock; return the seconds of each reserve and commit."""
        reserves, commits = [], []
        with Ledger.open(self.ledger, self.witness) as ledger:
            for _ in range(rounds):
                began = time.perf_counter()
                answer = ledger.reserve(RoundId(STUDY, self.rounds), TERMS, BUDGET)
                reserves.append(time.perf_counter() - began)
                assert not isinstance(answer, Replay)
                began = time.perf_counter()
                ledger.commit(answer, reply)
                commits.append(time.perf_counter() - began)
                self.rounds += 1
        return reserves, commits

    def append(self, times: int) -> list[float]:
        """Append bare entries; return the seconds of each."""
        seconds = []
        where = (self.ledger, self.witness)
        with open_journal(*where, clock=utc_now, wait_s=0, disk=Disk()) as journal:
            for _ in range(times):
                began = time.perf_counter()
                journal.append(Kind.CUT, {"bytes": 0})
                seconds.append(time.perf_counter() - began)
        return seconds


def in_ms(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "median_ms": round(1e3 * statistics.median(ordered), 3),
        "p95_ms": round(1e3 * ordered[int(0.95 * len(ordered))], 3),
    }


def timed(work: Any, repeats: int) -> dict[str, float]:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return in_ms(seconds)


def reserve_in_fresh_processes(place: Place, repeats: int) -> dict[str, dict[str, float]]:
    """Each charges the next round, in a process of its own."""
    parts: list[list[float]] = []
    for _ in range(repeats):
        command = [sys.executable, "-c", IN_A_FRESH_PROCESS]
        arguments = [str(place.ledger), str(place.witness), str(place.rounds)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        parts.append([float(part) for part in done.stdout.split()])
        place.answer(1)  # commits what was reserved
    imports, opens, reserves = (list(part) for part in zip(*parts, strict=True))
    answers = [o + r for o, r in zip(opens, reserves, strict=True)]
    return {
        "import": in_ms(imports),
        "open_and_verify": in_ms(opens),
        "reserve": in_ms(reserves),
        "open_verify_reserve": in_ms(answers),
    }


def measure(folder: Path, sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    place = Place(folder)
    began = time.perf_counter()
    place.answer(1)
    results: dict[str, Any] = {
        "first_round_with_the_accountant_s": round(time.perf_counter() - began, 3),
        "append": in_ms(place.append(repeats)),
    }
    reserves, commits = place.answer(repeats, REPLY)
    results["reserve_same_process"] = in_ms(reserves)
    results["commit_450_kB"] = in_ms(commits)
    results["by_rounds"] = {}
    for size in sizes:
        place.answer(size - place.rounds)
        state = read_ledger(place.ledger, place.witness)
        results["by_rounds"][str(size)] = {
            "entries": state.entries,
            "bytes": (place.ledger / "ledger.jsonl").stat().st_size,
            **reserve_in_fresh_processes(place, max(3, repeats // 10)),
            "read_without_lock": timed(lambda: read_ledger(place.ledger, place.witness), 5),
            "verify": timed(lambda: verify_ledger(place.ledger, place.witness), 5),
        }
    return results


def show(results: dict[str, Any]) -> None:
    table = Table("ledger", "median", "95%")
    for name in ("append", "reserve_same_process", "commit_450_kB"):
        row = results[name]
        table.add_row(name, f"{row['median_ms']:.2f} ms", f"{row['p95_ms']:.2f} ms")
    for rounds, rows in results["by_rounds"].items():
        for name, row in rows.items():
            if isinstance(row, dict):
                what = f"{rounds} rounds, {rows['entries']} entries: {name}"
                table.add_row(what, f"{row['median_ms']:.2f} ms", f"{row['p95_ms']:.2f} ms")
    Console().print(table)
    first = results["first_round_with_the_accountant_s"]
    Console().print(f"First round of a study, accountant asked: {first} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    sizes, repeats = ((100,), 20) if options.quick else ((1000, 5000), 200)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), sizes, repeats)
    show(results)
    if not options.quick:
        save(__file__, results)


if __name__ == "__main__":
    main()
