"""What a round costs beside the hospitals' own work: four hospitals, TLS, 100k parameters.

Real processes on loopback: SuperLink behind nginx, SuperNodes with keys, a process per message.
Watched from outside, by the lines that coordinator and hospitals write when a round or an order
is done, each round is cut into three:

    to the hospitals   until the last of them begins: the SuperNode's poll, the order, a process
    work               of the slowest hospital
    back               until the round is closed: the update, the coordinator's poll, a checkpoint

The first round is left out: nodes are still starting.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from figures import save
from real_federation import Federation, federation

STUDY = """\
name: first
rounds: {rounds}
model: {{filters: 64, image_size: 32}}
learner: {{name: prototypical, n_way: 2, n_shot: 1, n_query: 1, episodes: 1}}
round: {{quorum: {hospitals}, deadline_s: 120}}
"""
LOOK_S = 0.01


class Lines:
    """When the lines of a file came."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.came: list[float] = []

    def look(self) -> None:
        """Note the time of new lines."""
        n = self._path.read_bytes().count(b"\n") if self._path.exists() else 0
        self.came += [time.time()] * (n - len(self.came))


def watch(made: Federation, rounds: int) -> tuple[list[float], dict[str, list[float]]]:
    """Return when each round was closed, and when each hospital had done each order."""
    closed = Lines(made.coordinator / "studies" / "first" / "rounds.jsonl")
    done = {name: Lines(made.site(name) / "node" / "rounds.jsonl") for name in made.sites}
    while len(closed.came) < rounds:
        for lines in (closed, *done.values()):
            lines.look()
        time.sleep(LOOK_S)
    return closed.came, {name: lines.came for name, lines in done.items()}


def cut(made: Federation, rounds: int) -> list[dict[str, float]]:
    """Return the parts of each round but the first, in seconds."""
    closed, done = watch(made, rounds)
    events = made.rounds()
    orders = {name: {o["round_index"]: o["seconds"] for o in made.orders(name)} for name in done}
    found = []
    for index in range(1, rounds):
        begin = closed[index] - events[index]["seconds"]
        answered = {name: came[index] for name, came in done.items()}
        began = {name: end - orders[name][index] for name, end in answered.items()}
        last_end = max(answered.values())
        last_begin = max(began.values())
        found.append(
            {
                "round": events[index]["seconds"],
                "to the hospitals": last_begin - begin,
                "work": last_end - last_begin,
                "back": closed[index] - last_end,
                "coordinator's own": events[index]["overhead_s"],
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--hospitals", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 hospitals")
    options = parser.parse_args()
    rounds, hospitals = (3, 2) if options.quick else (options.rounds, options.hospitals)
    study = STUDY.format(rounds=rounds, hospitals=hospitals)
    with (
        TemporaryDirectory(prefix="metaward-") as folder,
        federation(Path(folder), study=study, hospitals=hospitals) as made,
    ):
        made.run()
        found = cut(made, rounds)
        made.until_finished()
    report(found, hospitals)
    save(__file__, {"hospitals": hospitals, "rounds": found})


def report(found: list[dict[str, float]], hospitals: int) -> None:
    table = Table(title=f"Seconds of a round, {hospitals} hospitals, {len(found)} rounds")
    for heading in ("part", "median", "least", "most"):
        table.add_column(heading)
    for part in found[0]:
        values: list[Any] = [one[part] for one in found]
        figures = (median(values), min(values), max(values))
        table.add_row(part, *(f"{value:.2f}" for value in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
