"""How often an adapted model is right: each image is asked of one that saw none of its patient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from metaward.episodes import Examples
from metaward.left_out_check import LeftOutCheck, check_left_out, dealt_patients, scores_of
from metaward.meta.classifier import Classifier
from metaward.tasks import Task

WAYS = 3


def numbered_task(labels: list[int], patients: list[int]) -> Task:
    """Return a task whose images tell, standardised, which one they are: where they are bright."""
    images = np.zeros((len(labels), 1, 16, 16), dtype=np.float32)
    for row in range(len(labels)):
        images[row].flat[row] = 1.0
    names = tuple("abc"[: max(labels) + 1])
    return Task("north", images, np.array(labels), np.array(patients), names)


def rows_of(images: torch.Tensor) -> list[int]:
    return images.flatten(1).argmax(dim=1).tolist()


def always(truth: list[int], wrong: frozenset[int] = frozenset()) -> Classifier:
    """Return a classifier that knows the label of each image but for those given."""

    def answer(images: torch.Tensor) -> torch.Tensor:
        named = [(truth[row] + (row in wrong)) % WAYS for row in rows_of(images)]
        return torch.nn.functional.one_hot(torch.tensor(named), WAYS).float()

    return Classifier({}, answer)


some_patients = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=6, max_size=40)


@settings(max_examples=60)
@given(some_patients)
def test_each_image_is_asked_once_by_a_model_that_saw_none_of_its_patient(
    pairs: list[tuple[int, int]],
) -> None:
    assume({label for label, _ in pairs} == {0, 1, 2})
    task = numbered_task(*map(list, zip(*pairs, strict=True)))
    seen: list[set[int]] = []
    asked: list[int] = []

    def adapt(support: Examples) -> Classifier:
        assert sorted(set(support.labels.tolist())) == [0, 1, 2]
        seen.append({int(task.patients[row]) for row in rows_of(support.images)})

        def answer(images: torch.Tensor) -> torch.Tensor:
            rows = rows_of(images)
            assert seen[-1].isdisjoint(task.patients[rows].tolist())
            asked.extend(rows)
            return torch.zeros(len(images), WAYS)

        return Classifier({}, answer)

    check = check_left_out(task, adapt, most=2, rng=np.random.default_rng(0))
    if check is None:
        assert not asked
        return
    assert sorted(asked) == list(range(len(pairs)))
    assert check.folds == len(seen) >= 2
    assert check.share == 0.0  # what says the same of every class is never right


@settings(max_examples=60)
@given(some_patients, st.integers(0, 3))
def test_outside_of_each_fold_every_label_has_a_patient(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    assume({label for label, _ in pairs} == {0, 1, 2})
    task = numbered_task(*map(list, zip(*pairs, strict=True)))
    fold_of = dealt_patients(task, np.random.default_rng(seed))
    assume(fold_of)
    assert set(fold_of) == set(task.patients.tolist())
    for fold in set(fold_of.values()):
        outside = {label for label, patient in pairs if fold_of[patient] != fold}
        assert outside == {0, 1, 2}


def test_folds_share_out_the_patients_of_a_label() -> None:
    task = numbered_task([0] * 10 + [1] * 25, list(range(35)))
    fold_of = dealt_patients(task, np.random.default_rng(0))
    for label, in_each in ((0, 2), (1, 5)):
        folds = [fold_of[int(patient)] for patient in task.patients[task.labels == label]]
        assert np.bincount(folds).tolist() == [in_each] * 5


def test_a_label_of_one_patient_cannot_be_checked_and_two_of_the_same_two_can() -> None:
    def checked(labels: list[int], patients: list[int]) -> bool:
        task = numbered_task(labels, patients)
        rng = np.random.default_rng(0)
        return check_left_out(task, lambda _: always(labels), most=5, rng=rng) is not None

    assert not checked([0, 0, 1, 1, 1], [1, 1, 2, 3, 4])
    assert checked([0, 0, 1, 1], [1, 2, 1, 2])


def test_models_of_the_folds_adapt_on_as_many_images_as_the_one_that_is_kept() -> None:
    labels = [0] * 20 + [1] * 20
    counts: list[list[int]] = []

    def adapt(support: Examples) -> Classifier:
        counts.append(np.bincount(support.labels.numpy()).tolist())
        return always(labels)

    task = numbered_task(labels, list(range(40)))
    check_left_out(task, adapt, most=4, rng=np.random.default_rng(0))
    assert counts == [[4, 4]] * 5


def test_whether_findings_with_shared_patients_can_be_checked_is_no_matter_of_luck() -> None:
    """A patient of one finding and one of another may be all that a third has."""
    task = numbered_task([0, 0, 1, 1, 2, 2], [1, 2, 3, 4, 1, 3])
    assert all(dealt_patients(task, np.random.default_rng(seed)) for seed in range(20))


def test_what_is_right_is_counted_by_finding_and_each_finding_weighs_the_same() -> None:
    labels = [0] * 8 + [1] * 4
    task = numbered_task(labels, list(range(12)))
    wrong = always(labels, frozenset({0, 1, 8}))
    check = check_left_out(task, lambda _: wrong, most=5, rng=np.random.default_rng(0))
    assert check is not None
    first, second = check.findings
    assert (first.label, first.right, first.images, first.patients) == ("a", 6, 8, 8)
    assert (second.label, second.right, second.images, second.patients) == ("b", 3, 4, 4)
    assert (first.share, second.share, check.share) == (0.75, 0.75, 0.75)


def test_intervals_count_patients_and_not_images() -> None:
    """By hand: 6 patients of 2 images each, one of them named wrongly in both."""
    labels = [0, 0] * 6 + [1, 1] * 6
    patients = [patient for patient in range(12) for _ in "ab"]
    task = numbered_task(labels, patients)
    wrong = always(labels, frozenset({0, 1}))
    check = check_left_out(task, lambda _: wrong, most=5, rng=np.random.default_rng(0))
    assert check is not None
    share = 5 / 6
    error = math.sqrt(share * (1 - share) / 6 * 6 / 5)  # of a mean over 6 patients
    low = share - float(stdtrit(5, 0.975)) * error
    assert check.findings[0].ci95 == pytest.approx((low, 1.0))
    assert check.findings[1].ci95 == pytest.approx((0.025 ** (1 / 6), 1.0))  # 6 of 6, exact


def test_findings_of_the_same_patients_are_not_counted_as_evidence_of_their_own() -> None:
    """Each patient is right in all findings or in none: three of them say no more than one."""
    labels, patients = [0, 1, 2] * 10, [patient for patient in range(10) for _ in "abc"]
    hard = frozenset(row for row in range(30) if patients[row] < 3)

    def checked(of: list[int], wrong: frozenset[int]) -> LeftOutCheck:
        task = numbered_task(labels, of)
        rng = np.random.default_rng(0)
        check = check_left_out(task, lambda _: always(labels, wrong), most=5, rng=rng)
        assert check is not None
        return check

    same, different = checked(patients, hard), checked(list(range(30)), hard)
    assert (same.share, different.share) == pytest.approx((0.7, 0.7))
    assert same.ci95 == pytest.approx(same.findings[0].ci95)
    low, high = different.findings[0].ci95
    assert different.ci95 == pytest.approx(
        (0.7 - (0.7 - low) / math.sqrt(3), 0.7 + (high - 0.7) / math.sqrt(3))
    )
    always_right = checked(patients, frozenset())
    assert always_right.ci95 == pytest.approx(always_right.findings[0].ci95)


def test_findings_that_disagree_in_a_patient_do_not_narrow_the_interval() -> None:
    labels, patients = [0, 1] * 10, [patient for patient in range(10) for _ in "ab"]
    wrong = frozenset(row for row in range(20) if (patients[row] < 5) == (labels[row] == 0))
    task, rng = numbered_task(labels, patients), np.random.default_rng(0)
    check = check_left_out(task, lambda _: always(labels, wrong), most=5, rng=rng)
    assert check is not None
    low = check.findings[0].ci95[0]
    assert check.ci95[0] == pytest.approx(0.5 - (0.5 - low) / math.sqrt(2))


def test_scores_come_in_the_order_of_the_images_however_many_are_shown_at_once() -> None:
    labels = [row % 3 for row in range(150)]
    task = numbered_task(labels, list(range(150)))
    rows = np.random.default_rng(0).permutation(150)
    scores = scores_of(always(labels), task, rows)
    assert scores.argmax(axis=1).tolist() == [labels[row] for row in rows]
