"""What a block adds to a release: one clipped delta, a function of its own patients alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from block_cases import BLOCKS, KEY, SEED, in_block
from metaward.errors import DataError, PrivacyError
from metaward.meta.learner import LocalResult
from metaward.tasks import Task
from metaward_client.privacy.block_release import block_delta, block_release, block_task
from metaward_client.privacy.noised_sum import NoisedSums
from metaward_client.privacy.poisson import block_of
from metaward_client.privacy.terms import Terms
from private_site import BODY, KnownSource, task_of, twelve_patients

ONE = {"w": torch.zeros(3)}


@dataclass(frozen=True)
class Pretender:
    """A learner that gives whatever a test wants of a block's task."""

    give: Callable[[Task], list[float]]

    def local_delta(self, *given: Any) -> LocalResult:
        _, _, task, _ = given
        return LocalResult({"w": torch.tensor(self.give(task))}, 0.0)


def released(
    task: Task, give: Callable[[Task], list[float]], *, norm: float = 1.0, **source: Any
) -> np.ndarray:
    terms = Terms("block", 1.0, 0.5, 1, norm, divisor=0.5 * BLOCKS)
    return block_release(
        BODY, ONE, task, Pretender(give),  # type: ignore[arg-type]
        NoisedSums(terms, KnownSource(**source), norm), blocks=BLOCKS, block_key=KEY, seed=SEED,
    )["w"]  # fmt: skip


EVERYBODY = {name: [0, 1] for block in range(BLOCKS) for name in in_block(block, 3)}


def test_a_release_is_the_sum_of_clipped_deltas_over_a_public_number() -> None:
    deltas = iter([[3.0, 0.0, 4.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.25]])
    expected = np.array([0.6, 0.5, 0.8 + 0.25]) / 1.5
    np.testing.assert_allclose(
        released(task_of(EVERYBODY), lambda _: next(deltas)), expected, rtol=2e-4
    )


def test_blocks_that_are_not_drawn_do_not_count_and_the_divisor_stays() -> None:
    everybody = task_of(EVERYBODY)
    assert not released(everybody, lambda _: [1.0, 0, 0], uniform=0.9).any()
    only_one = task_of({name: [0] for name in in_block(0, 2)})
    np.testing.assert_allclose(
        released(only_one, lambda _: [1.0, 0, 0]), [1 / 1.5, 0, 0], rtol=2e-4
    )


@pytest.mark.parametrize("uniform", [1e-9, 0.9])
def test_noise_is_drawn_whoever_is_in(uniform: float) -> None:
    for task in (task_of(EVERYBODY), task_of({})):
        assert released(task, lambda _: [0.0, 0, 0], scale=1.0, uniform=uniform).all()


@pytest.mark.parametrize("failure", ["too few", "nan", "inf"])
def test_a_block_that_cannot_learn_adds_zero_and_does_not_show(failure: str) -> None:
    broken = in_block(1, 1)[0]

    def give(task: Task) -> list[float]:
        if task.n_patients != 1:
            return [0.5, 0.0, 0.0]
        if failure == "too few":
            raise DataError("too few patients")
        return [float(failure), 0.0, 0.0]

    healthy = {name: [0, 1] for block in (0, 2) for name in in_block(block, 3)}
    np.testing.assert_array_equal(
        released(task_of(healthy | {broken: [0]}), give), released(task_of(healthy), give)
    )


def test_no_learner_is_run_for_a_block_without_patients() -> None:
    seen: list[int] = []

    def give(task: Task) -> list[float]:
        seen.append(task.n_patients)
        return [0.0, 0.0, 0.0]

    released(task_of({name: [0] for name in in_block(2, 2)}), give)
    assert seen == [2]


def test_a_patient_is_in_one_block_whoever_else_there_is() -> None:
    homes: dict[str, set[tuple[str, ...]]] = {}

    def blocks_of(patients: dict[str, list[int]]) -> None:
        task = task_of(patients)
        home = block_of(task.patient_tokens, BLOCKS, KEY)
        names = list(patients)
        for block in range(BLOCKS):
            own = block_task(task, np.flatnonzero(home == block))
            members = tuple(n for n, h in zip(names, home, strict=True) if h == block)
            assert own.n_patients == len(members)
            for name in members:
                homes.setdefault(name, set()).add((str(block),))

    blocks_of(EVERYBODY)
    blocks_of(dict(reversed(EVERYBODY.items())))
    blocks_of({name: EVERYBODY[name] for name in list(EVERYBODY)[::2]})
    assert all(len(where) == 1 for where in homes.values())
    assert set(homes) == set(EVERYBODY)


def test_a_block_sees_its_own_patients_as_if_there_were_no_others() -> None:
    """Also their numbers and labels: a new label elsewhere would else change every block."""
    names = ("aaa", "b", "c", "d")
    p, q = in_block(0, 2)
    alone = task_of({p: [1, 3], q: [3]}, names)
    crowd = task_of({in_block(1, 1)[0]: [0, 2], p: [1, 3], in_block(2, 1)[0]: [0], q: [3]}, names)
    mine = block_task(alone, np.array([0, 1]))
    same = block_task(crowd, np.array([1, 3]))
    assert mine.label_names == same.label_names == ("b", "d")
    np.testing.assert_array_equal(mine.labels, same.labels)
    np.testing.assert_array_equal(mine.patients, same.patients)
    np.testing.assert_array_equal(mine.images, same.images)
    assert (same.patients.tolist(), same.labels.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert same.patient_tokens == ()  # a learner has no use for them


NUMBERS = st.floats(width=32)
VECTOR = st.lists(NUMBERS, min_size=3, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.lists(VECTOR, min_size=3, max_size=3), VECTOR, st.integers(0, 2), st.floats(1e-2, 1e2))
def test_replacing_a_patient_moves_the_sum_by_at_most_twice_the_norm(
    deltas: list[list[float]], other: list[float], replaced: int, norm: float
) -> None:
    """Whatever the block then computes, the most adverse delta included."""
    task = task_of({in_block(block, 1)[0]: [0] for block in range(BLOCKS)})

    def total(given: list[list[float]]) -> np.ndarray:
        turn = iter(given)
        return released(task, lambda _: next(turn), norm=norm).astype(np.float64) * 0.5 * BLOCKS

    changed = [other if i == replaced else delta for i, delta in enumerate(deltas)]
    assert np.linalg.norm(total(changed) - total(deltas)) <= 2 * norm * (1 + 1e-6)  # float32


def test_a_block_has_a_stream_of_its_own() -> None:
    drawn: list[float] = []

    class Drawing:
        def local_delta(self, *given: Any) -> LocalResult:
            drawn.append(given[-1].random())
            return LocalResult({"w": torch.zeros(3)}, 0.0)

    def run(patients: dict[str, list[int]]) -> list[float]:
        drawn.clear()
        terms = Terms("block", 1.0, 0.5, 1, 1.0, divisor=1.5)
        block_release(
            BODY, ONE, task_of(patients), Drawing(),  # type: ignore[arg-type]
            NoisedSums(terms, KnownSource(), 1.0), blocks=BLOCKS, block_key=KEY, seed=SEED,
        )  # fmt: skip
        return list(drawn)

    three = run(EVERYBODY)
    assert len(set(three)) == 3
    assert run({name: [0] for name in in_block(2, 1)}) == three[2:]


@pytest.mark.parametrize("told", [0, -1])
def test_a_task_that_does_not_tell_its_patients_is_refused(told: int) -> None:
    """Nor is one left out of whom alone there is no token."""
    everybody = task_of(EVERYBODY)
    task = replace(everybody, patient_tokens=everybody.patient_tokens[:told])
    with pytest.raises(PrivacyError, match="does not tell its patients apart"):
        released(task, lambda _: [0.0, 0.0, 0.0])


def test_a_block_that_fails_in_any_way_counts_as_zero_and_is_not_described(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: Task) -> list[float]:
        raise RuntimeError("patient 4711 of block 3")

    np.testing.assert_array_equal(released(task_of(EVERYBODY), fail), [0, 0, 0])
    assert "4711" not in caplog.text
    assert "RuntimeError" in caplog.text


CUDA_FAILED = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("error", "device"),
    [
        (MemoryError(), "cpu"),
        (torch.OutOfMemoryError("CUDA out of memory"), "cuda"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "cpu"),
        (CUDA_FAILED, "cuda"),
    ],
)
def test_a_machine_that_fails_in_one_block_ends_the_round_for_all(
    error: Exception, device: str
) -> None:
    """Or a patient of one block could take away the others' vectors too."""

    def give(_: Task) -> list[float]:
        raise error

    task = replace(twelve_patients(), device=torch.device(device))
    with pytest.raises(type(error)):
        block_delta(
            BODY, ONE, task, Pretender(give),  # type: ignore[arg-type]
            np.arange(8), np.random.default_rng(0),
        )  # fmt: skip


@pytest.mark.parametrize("error", [DataError("too few"), RuntimeError("shapes"), ValueError()])
def test_work_that_fails_on_a_blocks_own_images_counts_as_zero(error: Exception) -> None:
    def give(_: Task) -> list[float]:
        raise error

    found = block_delta(
        BODY, ONE, twelve_patients(), Pretender(give),  # type: ignore[arg-type]
        np.arange(8), np.random.default_rng(0),
    )  # fmt: skip
    assert found is None
