"""Support and query never share a patient; a task that is too small says so in one sentence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaward.episodes import (
    sample_episode,
    sample_indices,
    sample_support,
    usable_labels,
    ways_within,
)
from metaward.errors import ConfigError, DataError
from metaward.evaluation_design import EvaluationPlan, design_for
from metaward.tasks import Task


def task_of(patients_with: dict[str, dict[int, int]]) -> Task:
    """Build a task from label -> patient -> number of images."""
    labels, patients = [], []
    for label, images_of in enumerate(patients_with.values()):
        for patient, n_images in images_of.items():
            labels += [label] * n_images
            patients += [patient] * n_images
    images = np.random.default_rng(0).random((len(labels), 1, 4, 4), dtype=np.float32)
    return Task("north", images, np.asarray(labels), np.asarray(patients), tuple(patients_with))


def two_labels(n_patients: int, n_images: int = 1) -> Task:
    return task_of(
        {
            "a": dict.fromkeys(range(n_patients), n_images),
            "b": {100 + patient: n_images for patient in range(n_patients)},
        }
    )


tasks = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.dictionaries(st.integers(0, 12), st.integers(1, 4), min_size=2, max_size=9),
    min_size=2,
).map(task_of)


@settings(max_examples=150, deadline=None)
@given(tasks, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32))
def test_query_patients_never_appear_in_the_support_set(
    task: Task, n_shot: int, n_query: int, seed: int
) -> None:
    try:
        drawn = sample_indices(
            task, n_way=2, n_shot=n_shot, n_query=n_query, rng=np.random.default_rng(seed)
        )
    except DataError:
        return
    support, query = task.patients[drawn.support], task.patients[drawn.query]
    assert not set(support) & set(query)
    assert len(set(drawn.support)) == 2 * n_shot
    assert len(set(drawn.query)) == 2 * n_query
    assert (task.labels[drawn.support].reshape(2, -1) == drawn.classes[:, None]).all()
    assert (task.labels[drawn.query].reshape(2, -1) == drawn.classes[:, None]).all()


def test_a_patient_with_two_labels_is_on_one_side_only() -> None:
    shared = dict.fromkeys(range(8), 1)
    task = task_of({"a": shared, "b": shared})
    for seed in range(50):
        drawn = sample_indices(task, n_way=2, n_shot=2, n_query=2, rng=np.random.default_rng(seed))
        assert not set(task.patients[drawn.support]) & set(task.patients[drawn.query])


def test_a_support_set_shows_as_many_patients_as_it_can() -> None:
    task = two_labels(n_patients=12, n_images=5)
    drawn = sample_indices(task, n_way=2, n_shot=5, n_query=5, rng=np.random.default_rng(0))
    assert len(set(task.patients[drawn.support])) == 10


def test_two_patients_are_enough_for_a_label() -> None:
    task = two_labels(n_patients=2, n_images=3)
    drawn = sample_indices(task, n_way=2, n_shot=3, n_query=3, rng=np.random.default_rng(0))
    assert len(set(task.patients[drawn.support])) == 2


def test_one_patient_is_never_enough() -> None:
    task = two_labels(n_patients=1, n_images=30)
    assert len(usable_labels(task, n_shot=1, n_query=1)) == 0


@pytest.mark.parametrize(
    ("n_patients", "n_shot", "n_query", "usable"),
    [(6, 3, 3, 2), (6, 4, 3, 0), (2, 1, 1, 2), (2, 2, 1, 0)],
)
def test_usable_labels_counts_patients_exactly(
    n_patients: int, n_shot: int, n_query: int, usable: int
) -> None:
    assert len(usable_labels(two_labels(n_patients), n_shot=n_shot, n_query=n_query)) == usable


def test_usable_labels_finds_the_split_that_images_per_patient_allow() -> None:
    # 5 + 2 + 2 images: 4 to adapt on and 5 to score is possible, 5 and 5 is not.
    task = task_of({"a": {1: 5, 2: 2, 3: 2}})
    assert len(usable_labels(task, n_shot=4, n_query=5)) == 1
    assert len(usable_labels(task, n_shot=5, n_query=5)) == 0


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    n_shot=st.integers(1, 6),
    n_query=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_labels_that_are_usable_can_be_drawn_however_unequal_their_patients_are(
    counts: list[int], n_shot: int, n_query: int, seed: int
) -> None:
    """Each patient has one label, so that no class can be in the way of another."""
    everyone = {
        name: {100 * i + p: c for p, c in enumerate(counts)} for i, name in enumerate("abc")
    }
    task = task_of(everyone)
    if len(usable_labels(task, n_shot=n_shot, n_query=n_query)) < 3:
        return
    rng = np.random.default_rng(seed)
    drawn = sample_indices(task, n_way=3, n_shot=n_shot, n_query=n_query, rng=rng)
    assert (len(set(drawn.support)), len(set(drawn.query))) == (3 * n_shot, 3 * n_query)
    assert not set(task.patients[drawn.support]) & set(task.patients[drawn.query])


def test_patients_change_places_when_their_order_cannot_be_cut() -> None:
    """2, 2, 2 and 40 images, 5 and 5 wanted: whenever 40 come last, none is left to be asked."""
    task = task_of({name: {10 * i: 2, 10 * i + 1: 2, 10 * i + 2: 2, 10 * i + 3: 40}
                    for i, name in enumerate("abcde")})  # fmt: skip
    for seed in range(50):
        rng = np.random.default_rng(seed)
        sample_indices(task, n_way=5, n_shot=5, n_query=5, rng=rng)


def test_a_label_with_too_few_patients_is_named_with_its_numbers() -> None:
    task = task_of({"a": {1: 1, 2: 1}, "rare": {3: 9}})
    with pytest.raises(DataError, match=r"rare: 9 images of 1 patients.*Lower n_way") as caught:
        sample_episode(task, n_way=2, n_shot=1, n_query=1, rng=np.random.default_rng(0))
    assert caught.value.where == "site north"


def test_fewer_labels_than_ways_is_a_sentence() -> None:
    with pytest.raises(DataError, match=r"2 of 2 labels have enough patients.*expected 5 labels"):
        sample_episode(two_labels(9), n_way=5, n_shot=1, n_query=1, rng=np.random.default_rng(0))


@pytest.mark.parametrize("asked", [(0, 1, 1), (2, 0, 1), (2, 1, 0), (2, -1, 1)])
def test_an_episode_without_classes_support_or_query_is_refused(
    asked: tuple[int, int, int],
) -> None:
    n_way, n_shot, n_query = asked
    sentence = f"n_way {n_way}, n_shot {n_shot}, n_query {n_query}; expected 1 or more of each"
    with pytest.raises(ConfigError, match=sentence):
        sample_episode(
            two_labels(9),
            n_way=n_way,
            n_shot=n_shot,
            n_query=n_query,
            rng=np.random.default_rng(0),
        )


def test_of_thousands_of_labels_a_message_names_a_few() -> None:
    characters = task_of({f"character {label}": {label: 1} for label in range(3000)})
    with pytest.raises(DataError) as one:
        sample_episode(characters, n_way=5, n_shot=1, n_query=1, rng=np.random.default_rng(0))
    with pytest.raises(DataError) as other:
        design_for(characters, EvaluationPlan())
    for message in map(str, (one.value, other.value)):
        assert "character 0: 1 images of 1 patients" in message
        assert "and 2988 more" in message
        assert len(message) < 1000


def test_a_support_set_may_use_every_patient() -> None:
    support = sample_support(two_labels(3), n_way=2, n_shot=3, rng=np.random.default_rng(0))
    assert support.images.shape == (6, 1, 4, 4)
    assert support.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_one_patient_with_enough_images_is_a_support_set_alone() -> None:
    task = task_of({"a": {0: 3}, "b": {1: 3}, "c": {2: 2, 3: 1, 4: 1}, "short": {5: 2}})
    assert ways_within(task, 9, n_shot=3, n_query=0) == 3
    support = sample_support(task, n_way=3, n_shot=3, rng=np.random.default_rng(0))
    assert support.images.shape == (9, 1, 4, 4)


def test_every_class_and_image_has_its_turn_in_a_support_set_alone() -> None:
    task = task_of({name: {10 * i + p: 2 for p in range(3)} for i, name in enumerate("abc")})
    rng = np.random.default_rng(1)
    drawn = [sample_support(task, n_way=2, n_shot=1, rng=rng).images for _ in range(100)]
    seen = {image.numpy().tobytes() for images in drawn for image in images}
    assert seen == {image.numpy().tobytes() for image in task.take(np.arange(18))}


def test_a_draw_that_does_not_work_out_is_made_again() -> None:
    """Of these draws two in three put somebody on the wrong side who has another label too."""
    chain = {"a": (0, 1, 2), "b": (1, 2, 3), "c": (2, 3, 0)}
    task = task_of({name: dict.fromkeys(patients, 1) for name, patients in chain.items()})
    for seed in range(20):
        sample_indices(task, n_way=3, n_shot=2, n_query=1, rng=np.random.default_rng(seed))


def test_every_class_and_patient_has_its_turn() -> None:
    task = task_of({name: {10 * i + p: 1 for p in range(4)} for i, name in enumerate("abcd")})
    rng = np.random.default_rng(1)
    seen: set[int] = set()
    for _ in range(100):
        seen |= set(sample_indices(task, n_way=2, n_shot=1, n_query=1, rng=rng).query.tolist())
    assert seen == set(range(16))


def test_every_image_of_a_patient_has_its_turn() -> None:
    task, rng = two_labels(n_patients=2, n_images=3), np.random.default_rng(1)
    seen: set[int] = set()
    for _ in range(50):
        seen |= set(sample_indices(task, n_way=2, n_shot=1, n_query=1, rng=rng).support.tolist())
    assert seen == set(range(12))


def test_what_is_usable_is_known_for_each_number_of_shots_and_queries_by_itself() -> None:
    task = task_of({"a": dict.fromkeys(range(2), 1), "b": dict.fromkeys(range(10, 13), 1)})
    asked = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 1)]
    found = [len(usable_labels(task, n_shot=shot, n_query=query)) for shot, query in asked]
    assert found == [2, 1, 1, 0, 2]


def test_the_number_of_a_class_in_an_episode_says_nothing_of_its_label() -> None:
    task, rng = two_labels(4), np.random.default_rng(0)
    orders = {
        tuple(sample_indices(task, n_way=2, n_shot=1, n_query=1, rng=rng).classes.tolist())
        for _ in range(20)
    }
    assert orders == {(0, 1), (1, 0)}


def test_images_are_standardised_one_by_one() -> None:
    task = two_labels(3)
    alone, together = task.take(np.asarray([2])), task.take(np.arange(6))
    assert (alone[0] == together[2]).all()
    assert abs(float(alone.mean())) < 1e-6
    assert float(alone.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
