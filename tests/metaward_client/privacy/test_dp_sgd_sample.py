"""Who and what counts in a noised gradient: the images, the labels, the sample, the divisor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dp_sgd_cases import AT, HEAD, by_hand, flat, sample, site, summed
from metaward.errors import PrivacyError
from metaward.meta.head import Head
from metaward.meta.noised import ClassSums
from metaward.meta.parameters import Parameters
from metaward_client.privacy.dp_sgd import clipped_sum
from metaward_client.privacy.round_memory import PooledSums, RoundMemory
from private_site import BODY, KnownSource, task_of, twelve_patients


def test_at_most_m_images_of_a_patient_are_used() -> None:
    task = task_of({"p": [0, 1, 0, 1, 0]})
    possible = [by_hand(task, [i]) for i in range(5)]
    found = set()
    for seed in np.linspace(0.01, 0.99, 30):
        at = site(task, m=1)
        vector = flat(clipped_sum(at, AT, sample(at, np.array([0]), np.array([seed])), (0, 1)))
        distance = [np.abs(vector - each).max() for each in possible]
        assert min(distance) < 3e-4
        found.add(int(np.argmin(distance)))
    assert found == set(range(5))


def test_images_of_labels_that_are_not_listed_count_nothing() -> None:
    names = ("a", "b", "secret")
    listed = task_of({"p": [0], "q": [1, 1]}, names)
    more = task_of({"p": [0, 2], "q": [1, 1, 2], "only-secret": [2, 2]}, names)
    rows = [0, 2, 3]  # the images that both have, in the order of the first
    images = more.images.copy()
    images[rows] = listed.images
    with_secret = site(replace(more, images=images))
    np.testing.assert_array_equal(flat(summed(with_secret)), flat(summed(site(listed))))
    assert with_secret.cohort.n_patients == 3  # still drawn, as everybody is


def test_a_label_means_its_name_and_not_its_number_at_the_site() -> None:
    """Which other labels a site has, and in which order, changes nothing."""
    task = task_of({"p": [0], "q": [1]})
    turned = replace(task, labels=2 - task.labels, label_names=("extra", "b", "a"))
    np.testing.assert_array_equal(flat(summed(site(turned))), flat(summed(site(task))))


def test_rows_of_the_head_stand_for_the_classes_in_their_order() -> None:
    task = task_of({"p": [0], "q": [1]})
    turned = Parameters(AT.body, Head(HEAD.weight.flip(0), HEAD.bias.flip(0)))
    at = site(task)
    total = clipped_sum(at, turned, sample(at, np.arange(2), np.full(2, 0.5)), (1, 0))
    np.testing.assert_allclose(flat(total), flat(summed(site(task))), rtol=1e-3, atol=1e-7)
    unturned = clipped_sum(at, AT, sample(at, np.arange(2), np.full(2, 0.5)), (1, 0))
    assert np.abs(flat(unturned) - flat(total)).max() > 1e-3


def test_a_patient_without_an_image_of_the_classes_adds_nothing_and_is_in_the_draw() -> None:
    task = task_of({"p": [0], "q": [1], "no-listed-label": [2]}, ("a", "b", "c"))
    at = site(task)
    only_a = summed(at, classes=(0,))
    assert only_a.bits == 0.5
    counted: list[int] = []

    class Counting(KnownSource):
        def uniforms(self, n: int) -> np.ndarray:
            counted.append(n)
            return super().uniforms(n)

    site(task, source=Counting()).gradient(AT, (0,))
    assert counted == [3, 3]  # all patients: once to draw them, once for their streams
    counted.clear()
    site(task, source=Counting(uniform=0.999)).gradient(AT, (0,))
    assert counted == [3, 3]  # also where nobody is drawn


def test_an_empty_sample_gives_noise_and_is_counted() -> None:
    source = KnownSource(scale=1.0, uniform=0.999)
    at = site(twelve_patients(), norm=1.0, source=source)
    answer = at.gradient(AT, (0, 1))
    assert at.sums.released == 1
    assert all(leaf.all() for leaf in answer.values())
    assert np.isnan(at.loss)


def test_a_site_without_any_image_answers_like_any_other() -> None:
    at = site(task_of({}), norm=1.0, source=KnownSource(scale=1.0))
    answer = at.gradient(AT, (0, 1))
    assert answer.keys() == AT.body.keys()
    assert all(leaf.all() for leaf in answer.values())


@pytest.mark.parametrize("uniform", [1e-9, 0.999])
def test_the_divisor_is_public_whoever_is_drawn(uniform: float) -> None:
    task = twelve_patients()
    at = site(task, source=KnownSource(uniform=uniform))
    answer = at.gradient(AT, (0, 1))
    drawn = [] if uniform > 0.5 else list(range(12))
    expected = summed(site(task), drawn=drawn).sums["norms.0.weight"] / 10.0
    np.testing.assert_allclose(answer["norms.0.weight"].numpy(), expected, atol=1e-6)


def test_class_sums_are_of_a_sample_of_their_own_and_counted_with_the_gradients() -> None:
    class Halves(KnownSource):
        calls = 0

        def uniforms(self, n: int) -> np.ndarray:
            self.calls += 1
            return np.full(n, 0.9 if self.calls == 1 else 0.1)

    at = site(twelve_patients(), norm=1.0, source=Halves(), steps=2)
    assert not at.class_sums(AT.body).patients.any()  # nobody is drawn
    assert any(leaf.any() for leaf in at.gradient(AT, (0, 1)).values())
    assert at.sums.released == 2
    with pytest.raises(PrivacyError, match="number 3 of a round"):
        at.class_sums(AT.body)


def test_patients_are_drawn_anew_for_each_answer() -> None:
    class Halves(KnownSource):
        calls = 0

        def uniforms(self, n: int) -> np.ndarray:
            self.calls += 1
            return np.full(n, 0.9 if self.calls == 1 else 0.1)

    at = site(twelve_patients(), source=Halves())
    assert not any(leaf.any() for leaf in at.gradient(AT, (0, 1)).values())
    assert any(leaf.any() for leaf in at.gradient(AT, (0, 1)).values())


def test_class_sums_are_the_mean_with_those_of_earlier_rounds() -> None:
    """Nobody is drawn, so the new sums are 0; the earlier ones weigh 0.8 of 1.8."""
    earlier = ClassSums(torch.full((2, BODY.features), 9.0), torch.full((2,), 0.9))
    at = site(twelve_patients(), source=KnownSource(uniform=0.999))
    at.memory = RoundMemory(sums=PooledSums(earlier, 1.0))
    found = at.class_sums(AT.body)
    torch.testing.assert_close(found.features, earlier.features * 0.8 / 1.8)
    torch.testing.assert_close(found.patients, earlier.patients * 0.8 / 1.8)
    assert at.memory.sums is not None
    assert at.memory.sums.weight == pytest.approx(1.8)
