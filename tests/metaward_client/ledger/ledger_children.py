"""Processes that really end, or really hold the lock; run as a script by the tests.

python ledger_children.py kill FOLDER TORN AT...    play, and be killed before each effect
python ledger_children.py race FOLDER ROUNDS        answer as many rounds as there is room for
python ledger_children.py write FOLDER ROUNDS       answer rounds at little cost, in one go
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from ledger_faults import StoppingDisk
from ledger_place import BUDGET, CHEAP, TERMS, A, Place, new_place
from ledger_scenario import ANSWERS_KEPT, scenario

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger import RoundId
from metaward_client.privacy.ledger import state as state_module


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def note(log: Path, round_: RoundId, reply: bytes) -> None:
    """Append a line at once, so that the test knows what was sent whatever happens next."""
    line = json.dumps([round_.study, round_.round_index, reply.hex()]) + "\n"
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)


def noted(log: Path) -> dict[RoundId, bytes]:
    if not log.exists():
        return {}
    rows = map(json.loads, log.read_text().splitlines())
    return {RoundId(study, index): bytes.fromhex(reply) for study, index, reply in rows}


def kill(folder: Path, torn: int, points: list[int]) -> None:
    state_module.REPLIES_KEPT = ANSWERS_KEPT
    for at in points:
        home = folder / str(at)
        home.mkdir()
        place = new_place(home, made=False)
        child = os.fork()
        if child == 0:
            scenario(place, partial(note, home / "sent"), StoppingDisk(at, torn, die))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), at
        assert os.WTERMSIG(status) == signal.SIGKILL, at


def race(folder: Path, rounds: int) -> None:
    place = Place(folder / "ledger", folder / "witness")
    log = folder.parent / f"sent-{os.getpid()}"
    for index in range(rounds):
        round_ = RoundId(A, index)
        try:
            with place.open(wait_s=60) as ledger:
                reply = place.answer(ledger, round_, TERMS)
        except PrivacyError as error:
            note(folder.parent / f"refused-{os.getpid()}", round_, str(error).encode())
        else:
            note(log, round_, reply)


def write(folder: Path, rounds: int) -> None:
    """Ten rounds in each opening; what a crash leaves is there at every other."""
    place = Place(folder / "ledger", folder / "witness")
    for first in range(0, rounds, 10):
        if first % 20:
            with place.file.open("ab") as file:
                file.write(b"half a line")
        with place.open() as ledger:
            for index in range(first, min(first + 10, rounds)):
                place.answer(ledger, RoundId(A, index), CHEAP)


def hold(folder: Path) -> None:
    place = Place(folder / "ledger", folder / "witness")
    with place.open() as ledger:
        ledger.reserve(RoundId(A, 0), TERMS, BUDGET)
        (folder.parent / "holding").touch()
        signal.pause()


if __name__ == "__main__":
    job, where, *rest = sys.argv[1:]
    if job == "kill":
        kill(Path(where), int(rest[0]), [int(at) for at in rest[1:]])
    elif job == "race":
        race(Path(where), int(rest[0]))
    elif job == "write":
        write(Path(where), int(rest[0]))
    else:
        hold(Path(where))
