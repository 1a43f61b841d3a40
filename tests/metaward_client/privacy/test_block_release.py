"""What a block adds to a release: one clipped delta, a function of its own patients alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaward.arrays import Tensors
from metaward.errors import DataError, PrivacyError
from metaward.learner_settings import (
    AnilSettings,
    FedAvgSettings,
    FomamlSettings,
    HallucinationSettings,
    LearnerSettings,
    MamlSettings,
    MannSettings,
    MatchingSettings,
    PrototypicalSettings,
    RelationSettings,
    ReptileSettings,
    SiameseSettings,
)
from metaward.meta.compose import build_learner, initial_parameters
from metaward.meta.learner import LocalResult
from metaward.tasks import Task
from metaward_client.privacy.block_release import block_delta, block_release, block_task
from metaward_client.privacy.noised_sum import NoisedSums
from metaward_client.privacy.poisson import block_of
from metaward_client.privacy.terms import Terms
from private_site import BODY, STUDY, KnownSource, task_of, twelve_patients

KEY = b"a key of the site, of 32 bytes.."
ONE = {"w": torch.zeros(3)}
BLOCKS = 3
SEED = (1, 2, 3)


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


def in_block(block: int, n: int) -> list[str]:
    """Names of patients whom the key puts into a block."""
    names = [f"p{i}" for i in range(60)]
    home = block_of([name.encode() for name in names], BLOCKS, KEY)
    return [name for name, where in zip(names, home, strict=True) if where == block][:n]


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


LEARNERS: list[LearnerSettings] = [
    PrototypicalSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    PrototypicalSettings(
        distance="cosine", loss="margin", n_way=2, n_shot=1, n_query=1, episodes=1
    ),
    MatchingSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    MatchingSettings(full_context=True, n_way=2, n_shot=1, n_query=1, episodes=1),
    RelationSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    SiameseSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    SiameseSettings(loss="contrastive", margin=3.0, n_way=2, n_shot=1, n_query=1, episodes=1),
    FomamlSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    MamlSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    AnilSettings(n_way=2, n_shot=1, n_query=1, episodes=1),
    ReptileSettings(n_way=2, n_shot=1, episodes=1, inner_steps=1),
    FedAvgSettings(local_steps=1),
    MannSettings(
        n_way=2,
        n_shot=1,
        n_query=1,
        episodes=1,
        hidden=4,
        memory_rows=3,
        read_heads=1,
        memory_width=4,
    ),
    HallucinationSettings(n_way=2, n_shot=1, n_query=1, episodes=1, hidden=4),
]


def theta_of(learner: LearnerSettings) -> Tensors:
    """Return theta before round 0, with the learner's own leaves."""
    return initial_parameters(STUDY.model, learner, STUDY.seed)


def block_of_six(extra: dict[str, list[int]]) -> np.ndarray:
    """Numbers of the six patients p0..p5 in a task with others."""
    return np.arange(len(extra), len(extra) + 6)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda s: s.name)
def test_a_patient_elsewhere_changes_no_bit_of_a_blocks_delta(learner: LearnerSettings) -> None:
    six = {f"p{i}": [1 + i % 2, 1 + i % 2] for i in range(6)}
    names = ("a rare one", "b", "c")

    def delta(extra: dict[str, list[int]]) -> dict[str, np.ndarray] | None:
        return block_delta(
            BODY, theta_of(learner), task_of(extra | six, names), build_learner(learner),
            block_of_six(extra), np.random.default_rng(3),
        )  # fmt: skip

    alone, crowded = delta({}), delta({"x": [0, 0, 1, 2], "y": [0]})
    assert alone is not None
    assert crowded is not None
    assert sum(float(np.abs(leaf).sum()) for leaf in alone.values()) > 0
    for name, leaf in alone.items():
        assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(crowded[name], leaf)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda s: s.name)
@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1]], ids=str)
def test_every_learner_bears_a_block_that_is_too_small(
    learner: LearnerSettings, labels: list[int]
) -> None:
    task = task_of({"p": labels})
    given = block_delta(
        BODY, theta_of(learner), task, build_learner(learner), np.array([0]),
        np.random.default_rng(0),
    )  # fmt: skip
    assert given is None or given.keys() == theta_of(learner).keys()


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda s: s.name)
def test_a_release_has_all_leaves_of_theta_with_the_learners_own(learner: LearnerSettings) -> None:
    """Clipped as one vector: the sum of two blocks is at most twice the norm long."""
    generator = torch.Generator().manual_seed(
        0
    )  # away from a start of zeros, which stops gradients
    theta = {
        name: leaf + 0.05 * torch.randn(leaf.shape, generator=generator)
        for name, leaf in theta_of(learner).items()
    }
    task = task_of({name: [0, 1] for block in (0, 1) for name in in_block(block, 4)})
    sums = NoisedSums(Terms("block", 1.0, 0.5, 1, 1e-3, divisor=0.5 * BLOCKS), KnownSource(), 1e-3)
    given = block_release(
        BODY, theta, task, build_learner(learner), sums, blocks=BLOCKS, block_key=KEY, seed=SEED
    )
    assert {name: leaf.shape for name, leaf in given.items()} == {
        name: tuple(leaf.shape) for name, leaf in theta.items()
    }
    assert all(leaf.any() for leaf in given.values())
    length = np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in given.values()))
    assert length <= 2 * 1e-3 / (0.5 * BLOCKS) * (1 + 1e-6)


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
