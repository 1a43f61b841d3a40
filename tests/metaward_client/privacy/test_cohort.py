"""Whose images go into a sum: at most m of each drawn patient, chosen by that patient's stream."""

from dataclasses import replace

import numpy as np
import pytest

from metaward.tasks import Task
from metaward_client.privacy.cohort import (
    IMAGES_AT_ONCE,
    PIXELS_AT_ONCE,
    Cohort,
    Sample,
    _PatientStreams,
)
from private_site import SIDE, task_of

LABELS = ("a", "b")


def sample(drawn: list[int], seeds: list[float], *, m: int = 9, augment: str = "none") -> Sample:
    return Sample(np.array(drawn, dtype=np.int64), np.array(seeds), m, augment)  # type: ignore[arg-type]


def shown(cohort: Cohort, which: Sample, classes: tuple[int, ...] = (0, 1)) -> list[list[int]]:
    """Return each patient's rows of the task, by looking for the images that were given."""
    everything = cohort.task.take(np.arange(cohort.task.n_images))
    found: list[list[int]] = []
    for examples, images_of_each in which.batches(cohort, classes):
        far = (examples.images[:, None] - everything[None]).abs().flatten(2).sum(dim=2)
        rows = far.argmin(dim=1).tolist()
        for n in images_of_each:
            found.append(rows[:n])
            rows = rows[n:]
    return found


def test_rows_are_grouped_by_patient_without_labels_that_are_not_listed() -> None:
    # rows 0 1 | 2 | 3 4, labels a secret | secret | b a
    names = ("a", "b", "secret")
    cohort = Cohort.of(task_of({"p": [0, 2], "q": [2], "r": [1, 0]}, names), LABELS)
    assert cohort.n_patients == 3
    assert [cohort.images_of(p).tolist() for p in range(3)] == [[0], [], [3, 4]]
    assert cohort.label_of.tolist() == [0, -1, -1, 1, 0]


def test_patients_whose_rows_lie_apart_are_one_patient() -> None:
    task = task_of({"p": [0, 1], "q": [0, 1]})
    mixed = replace(task, patients=np.array([1, 0, 1, 0]))
    cohort = Cohort.of(mixed, LABELS)
    assert [cohort.images_of(p).tolist() for p in range(2)] == [[1, 3], [0, 2]]


def test_a_site_without_any_image_has_no_patients() -> None:
    cohort = Cohort.of(task_of({}, ()), LABELS)
    assert cohort.n_patients == 0
    assert list(sample([], []).batches(cohort, (0, 1))) == []


def test_only_the_drawn_are_shown_in_their_order_and_those_without_an_image_left_out() -> None:
    cohort = Cohort.of(task_of({"p": [0], "q": [1], "r": [0], "s": [0, 0]}), LABELS)
    seeds = [0.5] * 4
    assert shown(cohort, sample([3, 1, 0], seeds, m=1), (0,))[1:] == [[0]]
    assert shown(cohort, sample([1], seeds), (0,)) == []
    assert sorted(shown(cohort, sample([3], seeds))[0]) == [3, 4]


def test_labels_are_places_in_the_classes_that_were_asked_for() -> None:
    cohort = Cohort.of(task_of({"p": [0], "q": [1]}), LABELS)
    both = next(iter(sample([0, 1], [0.5, 0.5]).batches(cohort, (1, 0))))[0]
    assert both.labels.tolist() == [1, 0]
    assert both.n_way == 2
    one = next(iter(sample([0, 1], [0.5, 0.5]).batches(cohort, (1,))))[0]
    assert (one.labels.tolist(), one.n_way) == ([0], 1)


def test_which_images_and_views_are_chosen_depends_on_a_patients_own_seed_alone() -> None:
    old = {"p": [0] * 9, "q": [1] * 9}
    before = Cohort.of(task_of(old), LABELS)
    after = Cohort.of(task_of({"x": [0, 1, 0]} | old), LABELS)

    def images(cohort: Cohort, drawn: list[int], seeds: list[float]) -> list[np.ndarray]:
        which = sample(drawn, seeds, m=3, augment="dihedral")
        (examples, images_of_each), *_ = which.batches(cohort, (0, 1))
        return np.split(examples.images.numpy(), np.cumsum(images_of_each))[:-1]

    p, q = images(before, [0, 1], [0.2, 0.7])
    x, p_after, q_after = images(after, [0, 1, 2], [0.4, 0.2, 0.7])
    assert len(x) == 3
    np.testing.assert_array_equal(p_after, p)
    np.testing.assert_array_equal(q_after, q)
    p_else, q_same = images(before, [0, 1], [0.3, 0.7])
    np.testing.assert_array_equal(q_same, q)
    assert not np.array_equal(p_else, p)
    (q_alone,) = images(before, [1], [0.2, 0.7])  # and not on who else is drawn
    np.testing.assert_array_equal(q_alone, q)


@pytest.mark.parametrize("side", [SIDE, 64])
def test_no_patient_is_cut_in_two_and_memory_is_bounded(side: int) -> None:
    """As many patients at once as there is room for; one who alone needs more comes alone."""
    counts = [20, 20, 20, 20, 90, 3, 20]
    task = with_side(task_of({f"p{i}": [0] * n for i, n in enumerate(counts)}), side)
    which = sample(list(range(7)), [0.5] * 7, m=100)
    batches = [own for _, own in which.batches(Cohort.of(task, LABELS), (0,))]
    assert [n for own in batches for n in own] == counts
    room = min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // side**2)
    small, large = [[20, 20, 20, 20, 90, 3], [20]], [[20, 20], [20, 20], [90], [3, 20]]
    assert batches == (small if side == SIDE else large)
    assert all(len(own) == 1 or sum(own) <= room for own in batches)


def test_images_of_which_one_is_more_than_there_is_room_for_come_patient_by_patient() -> None:
    side = 448
    assert side**2 > PIXELS_AT_ONCE
    task = with_side(task_of({"p": [0, 0], "q": [0]}), side)
    which = sample([0, 1], [0.5, 0.5])
    assert [own for _, own in which.batches(Cohort.of(task, LABELS), (0,))] == [[2], [1]]


def with_side(task: Task, side: int) -> Task:
    times = side // SIDE
    return replace(task, images=np.tile(task.images, (1, 1, times, times)))


@pytest.mark.parametrize("before", [0, 1, 2, 3, 7])
def test_a_patients_stream_is_the_same_whatever_was_drawn_for_another(before: int) -> None:
    """Also when another left half a word, or part of a block, behind."""
    streams, fresh = _PatientStreams(), _PatientStreams()
    streams.of(0.7).integers(0, 8, size=before)
    streams.of(0.7).permutation(before)
    own, expected = streams.of(0.3), fresh.of(0.3)
    assert own.permutation(9).tolist() == expected.permutation(9).tolist()
    assert own.integers(0, 8, size=9).tolist() == expected.integers(0, 8, size=9).tolist()


def test_streams_of_different_patients_differ() -> None:
    streams = _PatientStreams()
    drawn = {tuple(streams.of(seed).integers(0, 8, size=30)) for seed in np.linspace(0.1, 0.9, 50)}
    assert len(drawn) == 50
