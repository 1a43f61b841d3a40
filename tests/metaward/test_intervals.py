"""Promises of the intervals: exact small cases, edge cases, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from metaward.clustered_variance import Draws
from metaward.intervals import (
    DIFFERENCE_SCALE,
    Estimate,
    clustered_mean,
    mean_over_sites,
    paired_difference,
    unseen_fraction,
)


def draws(patients, episodes, labels=None, supports=None):
    """One finding, and nobody who is adapted on twice, where nothing else is said."""
    patients, episodes = np.asarray(patients), np.asarray(episodes)
    if labels is None:
        labels = np.zeros(len(patients), int)
    if supports is None:
        supports = np.zeros((len(np.unique(episodes)), 0), int)
    return Draws(patients, episodes, labels, supports)


def small_sample_factor(clusters):
    """What the expected square of a cluster's residuals falls short by, for equal spread."""
    weights = np.unique(clusters, axis=0, return_counts=True)[1] / len(clusters)
    expected = sum(
        w**2 * ((1 - w) ** 2 + sum(v**2 for j, v in enumerate(weights) if j != i))
        for i, w in enumerate(weights)
    )
    return sum(weights**2) / expected


def brute_force_variance(values, patients, episodes):
    """The double sum over all pairs of queries, with the small-sample factor of each dimension."""
    n = len(values)
    residual = values - values.mean()
    factor = {
        "patient": small_sample_factor(patients),
        "episode": small_sample_factor(episodes),
        "both": small_sample_factor(list(zip(patients, episodes, strict=True))),
    }
    parts = dict.fromkeys(factor, 0.0)
    for i in range(n):
        for j in range(n):
            same_patient, same_episode = patients[i] == patients[j], episodes[i] == episodes[j]
            product = residual[i] * residual[j] / n**2
            parts["patient"] += product * same_patient
            parts["episode"] += product * same_episode
            parts["both"] += product * (same_patient and same_episode)
    scaled = {name: parts[name] * factor[name] for name in parts}
    two_way = scaled["patient"] + scaled["episode"] - scaled["both"]
    return max(two_way, scaled["patient"], scaled["episode"])


def test_two_patients_in_two_episodes_by_hand():
    # Patients 0 and 1 in episodes 0 and 1; values 1, 1, 0, 1: mean 3/4.
    # Residuals +1/4 +1/4 | -3/4 +1/4. n = 4, every factor G/(G-1): 2, 2, 4/3.
    # V_patient = 2 * ((1/2)^2 + (-1/2)^2) / 16 = 1/16
    # V_episode = 2 * ((-1/2)^2 + (1/2)^2) / 16 = 1/16
    # V_both    = 4/3 * (3 * 1/16 + 9/16) / 16 = 1/16
    # V = 1/16; df = 1, t = 12.7062; the reach is 3.18, so the interval is all of [0, 1].
    estimate = clustered_mean(np.array([1.0, 1.0, 0.0, 1.0]), draws([0, 0, 1, 1], [0, 1, 0, 1]))
    assert estimate.mean == 0.75
    assert estimate.standard_error == pytest.approx(0.25, abs=1e-15)
    assert (estimate.low, estimate.high) == (0.0, 1.0)
    assert (estimate.patients, estimate.episodes) == (2, 2)


def test_one_query_per_patient_and_episode_is_the_ordinary_t_interval():
    # Every query its own cluster in both ways: all three variances are s^2 / n.
    values = np.array([0.9, 0.4, 0.7, 0.2, 0.5, 0.6, 0.8, 0.3])
    estimate = clustered_mean(
        values - 0.5, draws(np.arange(8), np.arange(8)), scale=DIFFERENCE_SCALE
    )
    standard_error = np.std(values, ddof=1) / math.sqrt(8)
    low, high = stats.t.interval(0.95, 7, loc=0.05, scale=standard_error)
    assert estimate.standard_error == pytest.approx(standard_error)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_few_episodes_leave_as_little_freedom_as_few_patients():
    # 30 patients are asked once, 10 in each of 3 episodes; or 3 patients in 30 episodes.
    values = np.random.default_rng(4).normal(size=30) / 9
    many, few = np.arange(30), np.arange(30) % 3
    for who in (draws(many, few), draws(few, many)):
        estimate = clustered_mean(values, who, scale=DIFFERENCE_SCALE)
        reach = stats.t.ppf(0.975, 2) * estimate.standard_error
        assert estimate.high - estimate.mean == pytest.approx(reach)


def test_one_patient_with_nearly_all_the_weight_leaves_the_whole_scale():
    # The other answers one of 200 questions; what they differ by is known of two patients alone.
    patients, values = np.repeat([0, 1], [199, 1]), np.tile([0.3, 0.31], 100)
    estimate = clustered_mean(values, draws(patients, np.arange(200)), scale=DIFFERENCE_SCALE)
    assert estimate.standard_error < 0.01
    assert (estimate.low, estimate.high) == (-1.0, 1.0)


def test_standard_error_equals_the_double_sum_over_pairs():
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = int(rng.integers(8, 60))
        values = rng.random(n)
        patients, episodes = rng.integers(0, 6, n), rng.integers(0, 9, n)
        estimate = clustered_mean(values, draws(patients, episodes))
        expected = math.sqrt(brute_force_variance(values, patients.tolist(), episodes.tolist()))
        assert estimate.standard_error == pytest.approx(expected, rel=1e-10)


def test_a_negative_two_way_variance_is_floored_at_the_larger_one_way_variance():
    # Residuals cancel within every patient and every episode: both one-way variances are 0 and
    # the two-way formula gives -V_both = -(4/3 * 4 * 1/4) / 16 < 0.
    values = np.array([1.0, 0.0, 0.0, 1.0])
    estimate = clustered_mean(values, draws([0, 0, 1, 1], [0, 1, 0, 1]))
    assert estimate.standard_error == 0.0
    assert estimate.high - estimate.low > 0.8  # two patients say little


def test_all_correct_gives_the_exact_binomial_bound_over_patients():
    patients = np.tile(np.arange(30), 50)
    estimate = clustered_mean(np.ones(1500), draws(patients, np.repeat(np.arange(50), 30)))
    exact = stats.binomtest(30, 30).proportion_ci(method="exact")
    assert estimate.high == 1.0
    assert estimate.low == pytest.approx(exact.low, rel=1e-12)


def test_all_wrong_is_the_mirror_of_all_correct():
    patients, episodes = np.tile(np.arange(12), 5), np.repeat(np.arange(5), 12)
    right = clustered_mean(np.ones(60), draws(patients, episodes))
    wrong = clustered_mean(np.zeros(60), draws(patients, episodes))
    assert wrong.low == 0.0
    assert wrong.high == pytest.approx(1.0 - right.low)


def test_one_error_more_never_makes_the_interval_jump():
    patients, episodes = np.tile(np.arange(20), 100), np.repeat(np.arange(100), 20)
    values = np.ones(2000)
    perfect = clustered_mean(values, draws(patients, episodes))
    values[7] = 0.0
    nearly = clustered_mean(values, draws(patients, episodes))
    assert abs(nearly.low - perfect.low) < 0.002


def test_one_patient_leaves_the_whole_scale():
    one = clustered_mean(np.array([1.0, 0.0, 1.0]), draws([0, 0, 0], [0, 1, 2]))
    assert (one.low, one.high) == (0.0, 1.0)
    assert math.isnan(one.standard_error)
    difference = paired_difference(np.ones(3), np.zeros(3), draws([0, 0, 0], [0, 1, 2]))
    assert (difference.low, difference.high) == (-1.0, 1.0)
    assert not difference.excludes_zero


def test_one_episode_leaves_the_whole_scale():
    one = clustered_mean(np.array([1.0, 0.0, 1.0]), draws([0, 1, 2], [0, 0, 0]))
    assert (one.low, one.high) == (0.0, 1.0)


def test_equal_methods_differ_by_zero_with_an_interval_that_has_width():
    values = np.array([1.0, 0.0] * 20)
    patients, episodes = np.tile(np.arange(10), 4), np.repeat(np.arange(4), 10)
    difference = paired_difference(values, values, draws(patients, episodes))
    assert difference.mean == 0.0
    assert difference.high == -difference.low == pytest.approx(unseen_fraction([10], [1.0]))
    assert not difference.excludes_zero


def test_pairing_removes_what_both_methods_share():
    rng = np.random.default_rng(0)
    patients, episodes = np.tile(np.arange(40), 30), np.repeat(np.arange(30), 40)
    hard = rng.random(40)[patients]
    values, reference = hard + 0.1 + 0.01 * rng.standard_normal(1200), hard
    difference = paired_difference(values, reference, draws(patients, episodes))
    assert difference.mean == pytest.approx(0.1, abs=0.002)
    assert difference.high - difference.low < 0.01
    assert difference.excludes_zero


def test_order_and_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(1)
    values, patients, episodes = rng.random(50), rng.integers(0, 9, 50), rng.integers(0, 7, 50)
    shuffled = rng.permutation(50)
    plain = clustered_mean(values, draws(patients, episodes))
    renamed = clustered_mean(
        values[shuffled], draws(1000 - 7 * patients[shuffled], 5 * episodes[shuffled] - 3)
    )
    assert renamed.mean == pytest.approx(plain.mean)
    assert renamed.standard_error == pytest.approx(plain.standard_error)


def test_findings_with_few_patients_weigh_as_much_as_others_and_widen_the_interval():
    """300 patients of one finding and 2 of the other: half of the mean hangs on two patients."""
    patients = np.concatenate([np.arange(300), np.repeat([300, 301], 150)])
    labels = np.repeat([0, 1], 300)
    who = draws(patients, np.arange(600) % 50, labels)
    perfect = clustered_mean(np.ones(600), who)
    assert perfect.low == pytest.approx(1 - (1 - 0.025**0.5) / 2, abs=1e-3)
    assert who.effective_patients == pytest.approx(2.03, abs=0.01)
    values = np.ones(600)
    values[450:] = 0  # one of the two is never recognised
    assert clustered_mean(values, who).high == 1.0
    assert clustered_mean(values, who).low == 0.0


def test_a_finding_weighs_as_much_as_it_is_asked_about():
    patients, labels = np.arange(100) % 20, np.repeat([0, 1], [90, 10])
    patients[90:] = 20, 21, 20, 21, 20, 21, 20, 21, 20, 21
    perfect = clustered_mean(np.ones(100), draws(patients, np.arange(100) % 5, labels))
    assert perfect.low == pytest.approx(1 - unseen_fraction([20, 2], [0.9, 0.1]))


@pytest.mark.parametrize("patients", [[3, 40, 400], [7, 7, 9], [1, 1, 1000]])
def test_no_kinds_that_all_patients_can_miss_stand_for_more(patients):
    shares = [0.2, 0.3, 0.5]
    grid = np.linspace(0, 1, 201)[:-1]
    a, b = np.meshgrid(grid, grid, indexing="ij")
    left = (math.log(0.025) - patients[0] * np.log1p(-a) - patients[1] * np.log1p(-b)) / patients[2]
    c = -np.expm1(left)
    possible = np.where(c >= 0, 0.2 * a + 0.3 * b + 0.5 * c, 0)
    found = unseen_fraction(patients, shares)
    assert possible.max() <= found + 1e-12
    assert found == pytest.approx(possible.max(), abs=2e-3)


def test_a_kind_always_ranked_last_costs_an_area_twice():
    who = draws(np.tile(np.arange(30), 50), np.repeat(np.arange(50), 30))
    u = unseen_fraction([30], [1.0])
    area = clustered_mean(np.ones(1500), who, degree=2)
    assert area.low == pytest.approx((1 - u) ** 2)


def test_mean_over_sites_weighs_sites_equally_and_adds_variances():
    # Half-widths 0.06 and 0.08: sqrt(0.06^2 + 0.08^2) / 2 = 0.05.
    sites = [
        Estimate(0.6, 0.54, 0.66, 0.03, 50, 200),
        Estimate(0.8, 0.72, 0.88, 0.04, 5000, 200),
    ]
    pooled = mean_over_sites(sites)
    assert pooled.mean == pytest.approx(0.7)
    assert (pooled.low, pooled.high) == pytest.approx((0.65, 0.75))
    assert pooled.standard_error == pytest.approx(0.025)
    assert (pooled.patients, pooled.episodes) == (5050, 400)


def test_an_interval_that_ends_at_zero_does_not_exclude_it():
    for low, high, excludes in ((0.0, 0.2, False), (-0.2, 0.0, False), (0.1, 0.2, True)):
        assert Estimate(0.1, low, high, 0.05, 12, 200).excludes_zero == excludes


def test_mean_over_one_site_is_that_site():
    site = Estimate(0.9, 0.7, 0.95, 0.05, 12, 200)
    pooled = mean_over_sites([site])
    assert (pooled.mean, pooled.low, pooled.high) == pytest.approx((0.9, 0.7, 0.95))


def simulated_site(rng, n_patients=40, n_episodes=60, queries=15, mean=0.7):
    """Patients differ in difficulty, episodes in luck; every query is a coin of its own."""
    patient_effect = rng.normal(0.0, 0.18, n_patients)
    episode_effect = rng.normal(0.0, 0.08, n_episodes)
    patients = np.concatenate(
        [rng.choice(n_patients, queries, replace=False) for _ in range(n_episodes)]
    )
    episodes = np.repeat(np.arange(n_episodes), queries)
    chance = np.clip(mean + patient_effect[patients] + episode_effect[episodes], 0.0, 1.0)
    return (rng.random(len(patients)) < chance).astype(float), patients, episodes


def true_mean(mean=0.7):
    """E[clip(N(mean, spread), 0, 1)], by numerical integration."""
    spread = math.hypot(0.18, 0.08)
    grid = np.linspace(-8, 8, 200_001)
    return float(np.trapezoid(np.clip(mean + spread * grid, 0, 1) * stats.norm.pdf(grid), grid))


def test_nominal_95_covers_about_95_percent_where_the_binomial_interval_does_not():
    rng = np.random.default_rng(20)
    truth = true_mean()
    repeats, clustered, binomial = 1500, 0, 0
    for _ in range(repeats):
        values, patients, episodes = simulated_site(rng)
        estimate = clustered_mean(values, draws(patients, episodes))
        clustered += estimate.low <= truth <= estimate.high
        naive = 1.96 * math.sqrt(estimate.mean * (1 - estimate.mean) / len(values))
        binomial += abs(estimate.mean - truth) <= naive
    assert 0.92 <= clustered / repeats <= 0.97
    assert binomial / repeats < 0.75


def test_paired_differences_cover_about_95_percent():
    rng = np.random.default_rng(21)
    repeats, covered = 1500, 0
    for _ in range(repeats):
        patients = np.concatenate([rng.choice(30, 10, replace=False) for _ in range(50)])
        episodes = np.repeat(np.arange(50), 10)
        gain = rng.normal(0.1, 0.15, 30)[patients] + rng.normal(0, 0.1, 50)[episodes]
        noise = rng.normal(0, 0.3, 500)
        estimate = paired_difference(gain + noise, np.zeros(500), draws(patients, episodes))
        covered += estimate.low <= 0.1 <= estimate.high
    assert 0.92 <= covered / repeats <= 0.97
