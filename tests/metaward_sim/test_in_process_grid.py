"""The in-process grid keeps Flower's promises: isolation, errors as replies, deadlines."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import Message

from metaward.arrays import Arrays
from metaward.errors import FederationError
from metaward.study import (
    AdamSettings,
    AggregationSettings,
    GeometricMedianSettings,
    KrumSettings,
    MedianSettings,
    MultiKrumSettings,
    RoundSettings,
    SgdSettings,
    Study,
    TrimmedMeanSettings,
)
from metaward.wire import RoundOrder, decode_update, encode_order
from metaward.wire_arrays import layout, spec_of
from metaward.workers import WorkerPool
from metaward_server import study_run
from metaward_server.study_run import run_study
from metaward_sim.in_process_grid import InProcessGrid

sys.path.insert(0, str(Path(__file__).parent))  # workers import the app by name
APP = "toy_client_app:app"
STUDY = Study(seed=3, rounds=4, outer=AdamSettings(step_size=0.1))
THETA: Arrays = {
    "b": np.float32([[1.0, -1.0], [0.5, 0.25]]),
    "w": np.float32([0.1, 0.2, 0.3]),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, preload=("torch", "flwr.clientapp")) as pool:
        yield pool


@pytest.fixture
def grid_of(pool: WorkerPool) -> Callable[..., InProcessGrid]:
    def build(*moods: str, **config: str) -> InProcessGrid:
        return InProcessGrid(APP, [{"mood": mood, **config} for mood in moods], pool)

    return build


def orders(grid: InProcessGrid, round_index: int = 0) -> list[Message]:
    content = encode_order(RoundOrder(STUDY, round_index, THETA))
    return [Message(content, node, "train", group_id="1") for node in grid.get_node_ids()]


def outcomes(replies: list[Message]) -> dict[int, object]:
    """Node -> error code, or "update"."""
    return {
        reply.metadata.src_node_id: reply.error.code if reply.has_error() else "update"
        for reply in replies
    }


def test_nodes_are_numbered_from_one(grid_of: Any) -> None:
    assert grid_of("honest", "honest", "honest").get_node_ids() == [1, 2, 3]


def test_every_node_answers_the_message_it_was_sent(grid_of: Any) -> None:
    grid = grid_of(*["honest"] * 5)
    messages = orders(grid)
    replies = grid.send_and_receive(messages, timeout=20)
    asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    assert len(asked) == 5
    assert {r.metadata.reply_to_message_id: r.metadata.src_node_id for r in replies} == asked
    deltas = {decode_update(r.content, spec_of(THETA)).delta["w"].tobytes() for r in replies}
    assert len(deltas) == 5


def test_nodes_work_in_other_processes_and_all_workers_take_part(
    grid_of: Any, pool: WorkerPool, tmp_path: Path
) -> None:
    grid = grid_of(*["slow"] * 6, marks=str(tmp_path))
    grid.send_and_receive(orders(grid), timeout=20)
    workers = {int(mark.read_text()) for mark in tmp_path.iterdir()}
    assert workers == set(pool.process_ids())
    assert os.getpid() not in workers


def test_a_node_cannot_change_what_the_coordinator_holds(grid_of: Any) -> None:
    grid = grid_of("meddle", "honest")
    messages = orders(grid)
    assert outcomes(grid.send_and_receive(messages, timeout=20)) == {1: "update", 2: "update"}
    assert set(messages[0].content) == {"order", "theta"}
    assert set(messages[0].content.array_records["theta"]) == {layout(spec_of(THETA))}


def test_the_coordinator_cannot_change_what_it_has_sent(grid_of: Any) -> None:
    grid = grid_of("honest")
    messages = orders(grid)
    ids = grid.push_messages(messages)
    messages[0].content.clear()
    assert outcomes(drain(grid, ids)) == {1: "update"}


def drain(grid: InProcessGrid, ids: list[str]) -> list[Message]:
    replies: list[Message] = []
    deadline = time.monotonic() + 20
    while len(replies) < len(ids) and time.monotonic() < deadline:
        replies.extend(grid.pull_messages(ids))
        time.sleep(0.01)
    return replies


def test_a_reply_is_pulled_once(grid_of: Any) -> None:
    grid = grid_of("honest")
    ids = grid.push_messages(orders(grid))
    assert len(drain(grid, ids)) == 1
    assert grid.pull_messages(ids) == []


def test_an_exception_becomes_an_error_reply_without_its_text(grid_of: Any) -> None:
    grid = grid_of("raise", "honest")
    replies = grid.send_and_receive(orders(grid), timeout=20)
    assert outcomes(replies) == {1: 2, 2: "update"}
    assert all(reply.error.reason is None for reply in replies if reply.has_error())


@pytest.mark.parametrize("mood", ["die", "segfault"])
def test_a_worker_that_dies_costs_its_own_node_only(grid_of: Any, mood: str) -> None:
    grid = grid_of(mood, *["honest"] * 4)
    assert outcomes(grid.send_and_receive(orders(grid), timeout=20)) == {
        1: 8,
        **dict.fromkeys(range(2, 6), "update"),
    }


def test_at_the_deadline_the_late_are_dropped_and_stopped(grid_of: Any, pool: WorkerPool) -> None:
    grid = grid_of("sleep once", "honest", "honest")
    pool.submit(divmod, 1, 1).result()
    began = time.monotonic()
    replies = grid.send_and_receive(orders(grid), timeout=1.0)
    assert 1.0 <= time.monotonic() - began < 3.0
    assert outcomes(replies) == {2: "update", 3: "update"}
    again = grid.send_and_receive(orders(grid, round_index=1), timeout=20)
    assert outcomes(again) == dict.fromkeys((1, 2, 3), "update")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Arrays]:
    monkeypatch.setattr(study_run, "initial_theta", lambda _: THETA)

    def play(name: str, grid: InProcessGrid, study: Study = STUDY, **extra: Any) -> Arrays:
        extra = {"resume": False, "on_round": lambda _: None} | extra
        return run_study(grid, study, tmp_path / name, n_nodes=1, **extra)

    return play


def test_the_number_of_workers_changes_no_bit(run: Any, grid_of: Any) -> None:
    two = run("two", grid_of(*["honest"] * 5))
    with WorkerPool(1, preload=()) as lone:
        one = run("one", InProcessGrid(APP, [{"mood": "honest"}] * 5, lone))
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in two.items()}


def test_a_study_goes_on_without_the_nodes_that_fail(run: Any, grid_of: Any) -> None:
    events: list[Any] = []
    run("mixed", grid_of("honest", "raise", "die", "honest"), on_round=events.append)
    assert [event.admitted for event in events] == [2] * 4
    assert all(event.refused == {"node-error": 2} for event in events)


def test_a_study_whose_nodes_all_hang_ends_after_its_void_rounds(run: Any, grid_of: Any) -> None:
    study = STUDY.model_copy(update={"round": RoundSettings(deadline_s=0.3, max_void_rounds=2)})
    with pytest.raises(FederationError, match=r"2 void rounds.*no-reply: 2"):
        run("hang", grid_of("sleep", "sleep"), study)


ROBUST: list[AggregationSettings] = [
    MedianSettings(),
    TrimmedMeanSettings(fraction=0.3),  # 2 of 7 at either end
    KrumSettings(hostile=2),
    MultiKrumSettings(hostile=2),
    GeometricMedianSettings(),
]
CONVERGING = Study(seed=3, rounds=12, outer=SgdSettings())


def distance(left: Arrays, right: Arrays) -> float:
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


@pytest.fixture
def honest_end(run: Any, grid_of: Any) -> Arrays:
    """Where five honest nodes lead: to 3, everywhere."""
    end: Arrays = run("honest", grid_of(*["honest"] * 5, target="3.0"), CONVERGING)
    assert distance(end, {name: np.full_like(leaf, 3) for name, leaf in end.items()}) < 0.1
    return end


def test_two_poisoned_nodes_of_seven_ruin_what_is_learned_by_a_mean(
    run: Any, grid_of: Any, honest_end: Arrays
) -> None:
    poisoned = grid_of(*["honest"] * 5, "poison", "poison", target="3.0")
    end = run("mean", poisoned, CONVERGING)
    assert distance(end, honest_end) > 100


@pytest.mark.parametrize("rule", ROBUST, ids=lambda rule: rule.name)
def test_under_a_robust_rule_they_change_little(
    rule: AggregationSettings, run: Any, grid_of: Any, honest_end: Arrays
) -> None:
    poisoned = grid_of(*["honest"] * 5, "poison", "poison", target="3.0")
    events: list[Any] = []
    study = CONVERGING.model_copy(update={"aggregation": rule})
    end = run(rule.name, poisoned, study, on_round=events.append)
    assert [event.admitted for event in events] == [7] * 12
    assert distance(end, honest_end) < 0.15


KILLED_STUDY = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from metaward.study import AdamSettings, Study
from metaward.workers import WorkerPool
from metaward_server import study_run
from metaward_sim.in_process_grid import InProcessGrid

THETA = {{"b": np.float32([[1.0, -1.0], [0.5, 0.25]]), "w": np.float32([0.1, 0.2, 0.3])}}
study_run.initial_theta = lambda _: THETA

if __name__ == "__main__":
    with WorkerPool(2, preload=("toy_client_app",)) as pool:
        grid = InProcessGrid("toy_client_app:app", [{{"mood": "slow"}}] * 3, pool)
        study = Study(seed=3, rounds=4, outer=AdamSettings(step_size=0.1))
        study_run.run_study(
            grid, study, Path({run_dir!r}), n_nodes=3, resume=False,
            on_round=lambda event: print(event.round_index, flush=True),
        )
"""


def test_a_study_killed_within_a_round_resumes_to_the_same_bits(
    run: Any, grid_of: Any, tmp_path: Path
) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        KILLED_STUDY.format(tests=str(Path(__file__).parent), run_dir=str(tmp_path / "killed"))
    )
    study = psutil.Popen([sys.executable, str(script)], stdout=-1, text=True)
    assert [study.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
    time.sleep(0.1)  # round 2 is under way: its nodes take 0.2 s each, three on two workers
    study.send_signal(signal.SIGKILL)
    study.wait()
    study.stdout.close()
    whole = run("whole", grid_of(*["honest"] * 3))
    resumed = run("killed", grid_of(*["honest"] * 3), resume=True)
    assert {n: a.tobytes() for n, a in resumed.items()} == {
        n: a.tobytes() for n, a in whole.items()
    }
    lines = (tmp_path / "killed" / "rounds.jsonl").read_text().splitlines()
    assert len(lines) == 4


@pytest.mark.slow
def test_200_nodes_take_no_more_memory_the_more_rounds_are_played(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = {"w": np.zeros(112_000, dtype=np.float32)}  # conv4 with 64 filters
    monkeypatch.setattr(study_run, "initial_theta", lambda _: theta)
    used: list[int] = []
    with WorkerPool(2, preload=("torch", "flwr.clientapp")) as pool:

        def watch(event: Any) -> None:
            assert event.admitted == 200
            family = [psutil.Process(), *map(psutil.Process, pool.process_ids())]
            used.append(sum(process.memory_info().rss for process in family))

        grid = InProcessGrid(APP, [{"large": True}] * 200, pool)
        run("many", grid, STUDY.model_copy(update={"rounds": 30}), on_round=watch)
    assert max(used[20:]) < 1.05 * max(used[5:15])
