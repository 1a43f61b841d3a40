"""What a site adapts on: up to so many images of each label, of as many patients as there are."""

import numpy as np
import pytest

from metaward.errors import DataError
from metaward.labelled_support import labelled_support, with_images_of_each_label
from metaward.tasks import Task


def task(labels: list[int], patients: list[int], names: tuple[str, ...] = ("a", "b")) -> Task:
    """Return images whose grey value at (0, 0) tells which one it is."""
    images = np.zeros((len(labels), 1, 4, 4), dtype=np.float32)
    images[:, 0, 0, 0] = 1 + np.arange(len(labels))
    return Task("north", images, np.array(labels), np.array(patients), names)


def drawn_rows(given: Task, most: int, patients: set[int] | None = None, seed: int = 0) -> set[int]:
    rng = np.random.default_rng(seed)
    support = labelled_support(given, most=most, rng=rng, patients=patients)
    everything = given.take(np.arange(given.n_images))
    rows = [
        next(row for row in range(given.n_images) if (everything[row] == image).all())
        for image in support.images
    ]
    assert [given.labels[row] for row in rows] == support.labels.tolist()
    assert support.n_way == len(given.label_names)
    return set(rows)


def with_values(labels: list[int], patients: list[int]) -> Task:
    """Return a task whose images stay different from one another when they are standardised."""
    images = np.random.default_rng(0).random((len(labels), 1, 4, 4)).astype(np.float32)
    return Task("north", images, np.array(labels), np.array(patients), ("a", "b"))


def test_a_label_with_fewer_images_than_asked_for_gives_all_that_it_has() -> None:
    assert drawn_rows(with_values([0, 0, 0, 1], [1, 2, 3, 4]), most=3) == {0, 1, 2, 3}


def test_every_patient_gives_one_image_before_any_gives_a_second() -> None:
    given = with_values([0, 0, 0, 0, 1], [1, 1, 1, 2, 3])
    for seed in range(10):
        rows = drawn_rows(given, most=2, seed=seed)
        assert {3, 4} < rows
        assert len(rows) == 3


def test_images_of_other_patients_than_those_allowed_are_never_drawn() -> None:
    given = with_values([0, 0, 0, 1, 1, 1], [1, 2, 3, 1, 2, 3])
    for seed in range(10):
        assert drawn_rows(given, most=9, patients={1, 3}, seed=seed) == {0, 2, 3, 5}


def test_another_seed_draws_other_images() -> None:
    given = with_values([0] * 20 + [1] * 20, list(range(40)))
    assert drawn_rows(given, most=5, seed=1) == drawn_rows(given, most=5, seed=1)
    assert drawn_rows(given, most=5, seed=1) != drawn_rows(given, most=5, seed=2)


def test_labels_that_no_image_has_are_left_out_and_the_others_keep_their_names() -> None:
    kept = with_images_of_each_label(task([2, 0, 2], [1, 2, 3], ("a", "b", "c")))
    assert kept.label_names == ("a", "c")
    assert kept.labels.tolist() == [1, 0, 1]
    assert sorted(kept.images_of) == [0, 1]


@pytest.mark.parametrize(
    ("labels", "found"), [([], "images of 0 labels"), ([1, 1], r"images of 1 label \(b: 2 images")]
)
def test_one_label_alone_is_nothing_to_tell_apart(labels: list[int], found: str) -> None:
    with pytest.raises(DataError, match=found):
        with_images_of_each_label(task(labels, list(range(len(labels)))))
