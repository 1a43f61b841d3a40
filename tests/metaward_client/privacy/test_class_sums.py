"""Class sums: what a patient adds to them, and what comes out in which units."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.noised import ClassSums
from metaward.models.body import Body
from metaward.tasks import Task
from metaward_client.privacy.class_sums import (
    FEATURE_PART,
    FEATURES,
    PATIENT_PART,
    PATIENTS,
    PatientClassSums,
    class_vectors,
)
from metaward_client.privacy.clip_norm import NOISE_FACTOR, ROUNDING_MARGIN
from metaward_client.privacy.cohort import Cohort, Sample
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums
from metaward_client.privacy.terms import Terms
from private_site import BODY, KnownSource, one_patient_more, task_of, twelve_patients

LABELS = ("a", "b")
THETA = BODY.initial_parameters()
DIVISOR = 10.0


class KnownFeatures(Body):
    """Gives each image of a task the features of its row in a table, and counts the images."""

    def __init__(self, task: Task, table: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.all = task.take(np.arange(task.n_images))
        self.table = torch.tensor(table, dtype=torch.float32)
        self.features = self.table.shape[1]
        self.seen = 0

    def apply_with(self, theta: Tensors, images: torch.Tensor) -> torch.Tensor:
        assert not theta
        self.seen += int(images.flatten(1).any(dim=1).sum())  # what fills a pass up is blank
        far = (images[:, None] - self.all[None]).abs().flatten(2).sum(dim=2)
        return self.table[far.argmin(dim=1)]


def site(task: Task, body: Body = BODY, *, norm: float = 2.0, source: KnownSource | None = None,
         adaptive: bool = False) -> PatientClassSums:  # fmt: skip
    terms = Terms("dp-sgd", 1.0, 0.5, 3, norm, DIVISOR, adaptive_clipping=adaptive)
    sums = NoisedSums(terms, source or KnownSource(), norm)
    return PatientClassSums(body, Cohort.of(task, LABELS), sums)


def asked(
    at: PatientClassSums, drawn: Sequence[int] | None = None, *, m: int = 4, augment: str = "none",
    seeds: Sequence[float] | None = None,
) -> ClassSums:  # fmt: skip
    n = at.cohort.n_patients
    who = np.arange(n) if drawn is None else np.asarray(drawn, dtype=np.int64)
    own = np.linspace(0.1, 0.9, n) if seeds is None else np.asarray(seeds)
    theta = {} if isinstance(at.body, KnownFeatures) else THETA
    return at(theta, Sample(who, own, m, augment))  # type: ignore[arg-type]


def vector(at: PatientClassSums, sums: ClassSums) -> np.ndarray:
    """Undo units and division: what was added up."""
    norm = at.sums.max_grad_norm
    features = sums.features.double() * FEATURE_PART * norm / math.sqrt(at.body.features)
    parts = [features.flatten(), sums.patients.double() * PATIENT_PART * norm]
    return DIVISOR * torch.cat(parts).numpy()


def test_two_patients_by_hand() -> None:
    """d = 4, so features are bounded by the length 2; a and b stand for the two parts.

    p has (3, 4, 0, 0), of length 5, so v_p = a (0.6, 0.8, 0, 0) under label a.
    q has (1, 0, 0, 0), shorter than 2, so a (0.5, 0, 0, 0) under label a; and (0, 0, 0, 8), longer,
    so a (0, 0, 0, 1) under label b; v_q is half of both.
    Sums: a (0.85, 0.8, 0, 0) and a (0, 0, 0, 0.5); patients 1.5 b and 0.5 b. In units of
    sqrt(d) / a and 1 / b, over the divisor 10: (0.17, 0.16, 0, 0), (0, 0, 0, 0.1); 0.15 and 0.05.
    """
    task = task_of({"p": [0], "q": [0, 1]})
    table = [[3.0, 4.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 8.0]]
    found = asked(site(task, KnownFeatures(task, table)))
    expected = [[0.17, 0.16, 0.0, 0.0], [0.0, 0.0, 0.0, 0.1]]
    np.testing.assert_allclose(found.features.numpy(), expected, rtol=2e-4)
    np.testing.assert_allclose(found.patients.numpy(), [0.15, 0.05], rtol=2e-4)


def test_the_parts_of_a_vector_make_a_whole() -> None:
    assert pytest.approx(1.0, abs=1e-15) == FEATURE_PART**2 + PATIENT_PART**2
    longest = class_vectors(torch.full((1, 9), 5.0), examples_of([1], 2), [1])
    squares = sum(float(leaf.square().sum()) for leaf in longest.values())
    assert squares == pytest.approx(1.0, abs=1e-12)


def test_without_noise_the_quotient_is_the_mean_of_the_class_and_the_counts_are_shares() -> None:
    task = task_of({"p": [0], "q": [0], "r": [1]})
    table = [[1.0, 0.5], [0.0, -1.0], [0.25, 0.75]]  # none longer than sqrt(2)
    found = asked(site(task, KnownFeatures(task, table)))
    np.testing.assert_allclose(found.patients.numpy(), [0.2, 0.1], rtol=2e-4)  # of ten
    means = (found.features / found.patients[:, None]).numpy()
    np.testing.assert_allclose(means, [[0.5, -0.25], [0.25, 0.75]], rtol=1e-6)


@pytest.mark.parametrize("norm", [1e-3, 1.0, 500.0])
def test_the_clip_norm_sets_the_noise_and_not_the_answer(norm: float) -> None:
    task = twelve_patients()
    silent, plain = asked(site(task, norm=norm)), asked(site(task))
    np.testing.assert_allclose(silent.features.numpy(), plain.features.numpy(), rtol=1e-5)
    at = site(task, norm=norm, source=KnownSource(scale=1.0))
    noise = vector(at, asked(at, []))
    first = KnownSource(scale=1.0)
    drawn = np.concatenate([first.normals(2 * BODY.features), first.normals(2)])
    np.testing.assert_allclose(noise, norm * drawn, rtol=1e-5)


def examples_of(labels: Sequence[int], n_way: int) -> Examples:
    return Examples(torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), n_way)


ANY_FEATURES = arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(width=32)
)
"""Up to six images, among them not-a-number, infinities and numbers whose squares overflow."""


@settings(max_examples=300, deadline=None)
@given(ANY_FEATURES, st.data(), st.floats(1e-3, 1e3))
def test_no_patients_vector_is_longer_than_the_norm_whatever_the_features_are(
    features: np.ndarray, data: st.DataObject, norm: float
) -> None:
    n, d = features.shape
    labels = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    first = data.draw(st.integers(1, n))
    images_of_each = [first, n - first] if first < n else [n]
    vectors = class_vectors(torch.from_numpy(features), examples_of(labels, 3), images_of_each)
    parts = [leaf.flatten(1).numpy() for leaf in vectors.values()]
    lengths = np.linalg.norm(np.concatenate(parts, axis=1), axis=1)
    own = np.split(np.isfinite(features).all(axis=1), [first])[: len(images_of_each)]
    np.testing.assert_array_equal(np.isfinite(lengths), [rows.all() for rows in own])
    assert (lengths[np.isfinite(lengths)] <= 1 + 1e-12).all()
    total = ClippedSum.empty({FEATURES: (3, d), PATIENTS: (3,)}, norm)
    total.add({name: norm * leaf[:1].numpy() for name, leaf in vectors.items()})
    alone = np.concatenate([leaf.ravel() for leaf in total.sums.values()])
    assert np.linalg.norm(alone) <= norm


@pytest.mark.parametrize("size", [2.0, 1e10, 1e30, 3e38])
def test_features_keep_their_direction_however_long_they_are(size: float) -> None:
    vectors = class_vectors(torch.tensor([[size, 0.0, 0.0, 0.0]]), examples_of([0], 1), [1])
    expected = [[[FEATURE_PART, 0.0, 0.0, 0.0]]]
    np.testing.assert_allclose(vectors[FEATURES].numpy(), expected, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(one_patient_more(), st.floats(1e-3, 1e3))
def test_no_patient_moves_the_sum_by_more_than_the_norm(
    tasks: tuple[Task, Task], norm: float
) -> None:
    before, after = (site(task, norm=norm) for task in tasks)
    seeds = [0.3, 0.6, 0.9]
    moved = vector(after, asked(after, seeds=seeds)) - vector(before, asked(before, seeds=seeds))
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved) <= norm


@pytest.mark.parametrize("newcomer", ["first", "last"])
def test_a_patient_more_leaves_what_others_add_as_it_was_within_the_margin(newcomer: str) -> None:
    old = {"p": [0, 0, 0, 1, 1], "q": [1, 0, 1], "r": [0] * 7}
    first = newcomer == "first"
    new = {"x": [0, 1] * 5}
    before = site(task_of(old))
    after = site(task_of(new | old if first else old | new))
    seeds = [0.2, 0.4, 0.6]
    seeds_after = [0.9, *seeds] if first else [*seeds, 0.9]
    others = [1, 2, 3] if first else [0, 1, 2]

    def summed(at: PatientClassSums, who: Sequence[int], own: Sequence[float]) -> np.ndarray:
        return vector(at, asked(at, who, m=2, augment="dihedral", seeds=own))

    norm = before.sums.max_grad_norm
    room = 0.1 * (1 - ROUNDING_MARGIN) * norm
    total = summed(before, [0, 1, 2], seeds)
    assert np.linalg.norm(summed(after, others, seeds_after) - total) < room
    everybody = summed(site(after.cohort.task), range(4), seeds_after)
    alone = summed(site(after.cohort.task), [0 if first else 3], seeds_after)
    assert np.linalg.norm(everybody - total - alone) < room
    assert np.linalg.norm(everybody - total) <= norm


def test_a_patient_counts_once_however_many_images_there_are() -> None:
    found = asked(site(task_of({"one": [0], "four": [1, 1, 1, 1]})))
    np.testing.assert_allclose(found.patients.numpy(), [0.1, 0.1], rtol=2e-4)


def test_at_most_m_images_of_a_patient_are_used() -> None:
    task = task_of({"p": [0, 1, 0, 1, 0], "q": [0]})
    body = KnownFeatures(task, np.ones((6, 3)).tolist())
    found = asked(site(task, body), m=2)
    assert body.seen == 3
    assert float(found.patients.sum()) == pytest.approx(0.2, rel=2e-4)


def test_images_of_labels_that_are_not_listed_count_nothing() -> None:
    names = ("a", "b", "secret")
    listed = task_of({"p": [0], "q": [1, 1]}, names)
    more = task_of({"p": [0, 2], "q": [1, 1, 2], "only-secret": [2, 2]}, names)
    images = more.images.copy()
    images[[0, 2, 3]] = listed.images
    seeds = [0.2, 0.4, 0.6]
    expected = asked(site(listed), seeds=seeds)
    found = asked(site(replace(more, images=images)), seeds=seeds)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.patients, expected.patients)


def test_a_label_means_its_name_and_not_its_number_at_the_site() -> None:
    task = task_of({"p": [0], "q": [1]})
    turned = replace(task, labels=2 - task.labels, label_names=("extra", "b", "a"))
    assert torch.equal(asked(site(turned)).features, asked(site(task)).features)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_no_image_makes_its_patient_add_zero(value: float) -> None:
    task = task_of({"p": [0], "bad": [1, 1], "q": [1]})
    images = task.images.copy()
    images[1, 0, 3, 3] = value
    broken, whole = site(replace(task, images=images)), site(task)
    expected = vector(whole, asked(whole, [0, 2]))
    np.testing.assert_allclose(vector(broken, asked(broken)), expected, rtol=0, atol=1e-6)


def test_parameters_under_which_nothing_is_finite_make_everybody_add_zero() -> None:
    at = site(twelve_patients())
    wild = {name: torch.full_like(leaf, torch.inf) for name, leaf in THETA.items()}
    found = at(wild, Sample(np.arange(12), np.full(12, 0.5), 4, "none"))
    assert not vector(at, found).any()


@pytest.mark.parametrize("task", [task_of({}), twelve_patients()], ids=["nobody", "not drawn"])
def test_an_empty_sample_gives_noise_and_is_counted(task: Task) -> None:
    source = KnownSource(scale=1.0)
    at = site(task, source=source)
    found = asked(at, [])
    assert source.asked == [2 * BODY.features, 2]
    assert found.features.all()
    assert found.patients.all()
    assert at.sums.released == 1


def test_class_sums_have_one_row_for_each_listed_label_in_float32() -> None:
    found = asked(site(task_of({"p": [1]})))
    assert found.features.shape == (2, BODY.features)
    assert found.patients.shape == (2,)
    assert {found.features.dtype, found.patients.dtype} == {torch.float32}
    assert not found.features[0].any()


def test_a_norm_that_adapts_stays_at_a_class_sum_and_no_bits_are_let_out() -> None:
    source, plain = KnownSource(scale=1.0), KnownSource(scale=1.0)
    at = site(twelve_patients(), source=source, adaptive=True)
    loud = vector(at, asked(at, []))
    assert at.sums.max_grad_norm == 2.0
    assert source.asked == [2 * BODY.features, 2]  # features and patients, and no third
    still = site(twelve_patients(), source=plain)
    np.testing.assert_allclose(loud, NOISE_FACTOR * vector(still, asked(still, [])), rtol=1e-5)
