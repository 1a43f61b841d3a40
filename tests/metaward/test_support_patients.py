"""Patients that a model adapts on are drawn too, and move a mean as those who are asked about."""

import math

import numpy as np
import pytest

from metaward.clustered_variance import Draws, SupportRole, support_role, variance_of_mean
from metaward.intervals import Estimate, clustered_mean

WAYS, PATIENTS, FEATURES, EPISODES, QUERIES = 3, 20, 4, 60, 5


def test_four_episodes_on_two_supports_by_hand():
    # Four patients are asked once in each episode. On support A all are right, on B all wrong.
    # Residuals +-1/2; a patient's own mean is 0; R = +-1/8. c = 1/2 for both.
    # s_A = (1/8 + 1/8) / (1/2) = 1/2 (without A the mean is 0, not 1/2), s_B = -1/2.
    # k sum (q + s)^2 = 4/3 * 1/2; luck: 2 * 4/64; V_episode = 4/3 * 4/64; V_both = 16/15 * 1/64.
    patients, episodes = np.tile(np.arange(4), 4), np.repeat(np.arange(4), 4)
    supports = np.array([[10], [10], [11], [11]])
    values = np.repeat([1.0, 1.0, 0.0, 0.0], 4)
    draws = Draws(patients, episodes, np.zeros(16, int), supports)
    assert draws.support_share.tolist() == [0.5, 0.5]
    expected = 4 / 3 / 2 - 2 / 16 + 4 / 3 / 16 - 16 / 15 / 64
    assert variance_of_mean(values - 0.5, draws) == pytest.approx(expected, rel=1e-12)
    assert clustered_mean(values, draws).standard_error == pytest.approx(math.sqrt(expected))


def test_a_patient_that_is_both_is_one_patient():
    """Who is hard to recognise and bad to adapt on moves the mean twice, in one direction."""
    rng = np.random.default_rng(0)
    patients = np.tile(np.arange(20), 30)
    supports = rng.integers(0, 20, (30, 2))
    hard = rng.normal(size=20)
    values = hard[patients] + np.repeat(hard[supports].mean(axis=1), 20)
    episodes, labels = np.repeat(np.arange(30), 20), np.zeros(600, int)
    same = variance_of_mean(values - values.mean(), Draws(patients, episodes, labels, supports))
    others = Draws(patients, episodes, labels, supports + 100)
    assert same > 1.3 * variance_of_mean(values - values.mean(), others)


def test_a_patient_with_two_images_in_a_support_is_adapted_on_once():
    patients, episodes, labels = np.arange(6), np.arange(6) % 3, np.zeros(6, int)
    twice = Draws(patients, episodes, labels, np.array([[7, 7], [8, 9], [9, 8]]))
    assert twice.support_share.tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])


def test_names_and_order_of_patients_change_nothing():
    rng = np.random.default_rng(1)
    patients, episodes = rng.integers(0, 9, 90), np.repeat(np.arange(9), 10)
    supports, values = rng.integers(0, 12, (9, 3)), rng.random(90)
    plain = Draws(patients, episodes, np.zeros(90, int), supports)
    order = rng.permutation(90)
    renamed = Draws(
        5 - 3 * patients[order], 2 * episodes[order], np.zeros(90, int), 5 - 3 * supports
    )
    residuals = values - values.mean()
    expected = variance_of_mean(residuals, plain)
    assert variance_of_mean(residuals[order], renamed) == pytest.approx(expected, rel=1e-12)


def test_who_is_in_every_support_shows_no_difference_and_leaves_no_freedom():
    patients, episodes = np.tile(np.arange(10), 4), np.repeat(np.arange(4), 10)
    draws = Draws(patients, episodes, np.zeros(40, int), np.full((4, 1), 99))
    estimate = clustered_mean(np.tile([1.0, 0.0], 20), draws)
    assert draws.effective_patients == pytest.approx(1.0)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_who_is_in_every_support_adds_nothing_to_what_the_others_do():
    rng = np.random.default_rng(2)
    patients, episodes = np.tile(np.arange(10), 6), np.repeat(np.arange(6), 10)
    others, residuals = rng.integers(20, 24, (6, 2)), rng.normal(size=60)
    always = np.column_stack([np.full(6, 99), others])
    labels = np.zeros(60, int)
    without = support_role(residuals, Draws(patients, episodes, labels, others))
    with_one = support_role(residuals, Draws(patients, episodes, labels, always))
    assert with_one.influence.tolist() == [*without.influence, 0.0]
    assert with_one.luck == pytest.approx(without.luck, rel=1e-12)


def test_roles_that_cancel_never_narrow_an_interval_below_that_of_queries_and_episodes():
    """Who is hard to recognise and good to adapt on hardly moves the mean of these episodes."""
    rng = np.random.default_rng(0)
    patients, episodes = np.tile(np.arange(20), 30), np.repeat(np.arange(30), 20)
    supports, hard = rng.integers(0, 20, (30, 2)), rng.normal(size=20)
    values = hard[patients] - np.repeat(hard[supports].mean(axis=1), 20)
    draws, residuals = (
        Draws(patients, episodes, np.zeros(600, int), supports),
        values - values.mean(),
    )
    nobody = SupportRole(np.arange(20), np.zeros(20), 0.0)
    assert variance_of_mean(residuals, draws) == variance_of_mean(residuals, draws, nobody)


def hospital(rng: np.random.Generator, shots: int) -> tuple[np.ndarray, Draws]:
    """Draw patients of three findings, then episodes from them; answer by the nearest mean."""
    findings = np.random.default_rng(99).normal(size=(WAYS, FEATURES)) * 0.6
    patients = findings[:, None] + rng.normal(size=(WAYS, PATIENTS, FEATURES))
    order = np.argsort(rng.random((EPISODES, WAYS, PATIENTS)), axis=2)
    support, query = order[:, :, :shots], order[:, :, shots : shots + QUERIES]
    finding = np.arange(WAYS)[:, None]
    values = right(patients[finding, support].mean(axis=2), patients[finding, query])
    number = finding * PATIENTS
    return values.reshape(-1), Draws(
        (number + query).reshape(-1),
        np.repeat(np.arange(EPISODES), WAYS * QUERIES),
        np.tile(np.repeat(np.arange(WAYS), QUERIES), EPISODES),
        (number + support).reshape(EPISODES, -1),
    )


def right(prototypes: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return (n, WAYS, n_query): whether the nearest prototype is that of the finding."""
    apart = queries[:, :, :, None] - prototypes[:, None, None]
    nearest = np.square(apart).sum(axis=-1).argmin(axis=-1)
    return (nearest == np.arange(WAYS)[:, None]).astype(float)


def truth(shots: int) -> float:
    """Return the accuracy over all patients that the findings could have."""
    rng, findings = (
        np.random.default_rng(5),
        np.random.default_rng(99).normal(size=(WAYS, FEATURES)),
    )
    support = 0.6 * findings[:, None] + rng.normal(size=(20_000, WAYS, shots, FEATURES))
    query = 0.6 * findings[:, None] + rng.normal(size=(20_000, WAYS, 1, FEATURES))
    return float(right(support.mean(axis=2), query).mean())


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_with_patients_drawn_anew_95_percent_is_about_that(shots: int) -> None:
    """Without the role of support patients it is 82 to 91% here."""
    rng, expected, n = np.random.default_rng(shots), truth(shots), 300
    covered = old = 0
    for _ in range(n):
        values, draws = hospital(rng, shots)
        found = clustered_mean(values, draws)
        covered += holds(found, expected)
        nobody = draws.supports[:, :0]
        asked = Draws(draws.patients, draws.episodes, draws.labels, nobody)
        old += holds(clustered_mean(values, asked), expected)
    assert 0.91 <= covered / n <= 0.985
    assert old < covered


def holds(found: Estimate, expected: float) -> bool:
    return found.low <= expected <= found.high
