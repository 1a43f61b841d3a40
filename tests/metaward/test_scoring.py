"""How answers are scored: right or wrong, and how surely they are ranked."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from metaward.scoring import auroc_scores, class_scores, is_correct, log_odds


def test_area_under_the_curve_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 10)
    probabilities = rng.dirichlet(np.ones(4), 40).round(2)  # with ties
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert auroc_scores(probabilities, truth).mean() == pytest.approx(expected, abs=1e-6)


def test_a_rare_class_counts_for_as_much_of_the_area_as_a_frequent_one():
    truth = np.repeat(np.arange(3), [30, 6, 2])
    probabilities = np.random.default_rng(2).dirichlet(np.ones(3), 38)
    expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert auroc_scores(probabilities, truth).mean() == pytest.approx(expected, abs=1e-6)


def test_what_has_become_certain_is_still_ranked():
    """Differences of 40 and more round a probability to 1; they still say which image is surer."""
    logits = torch.tensor([[60.0, 0.0], [50.0, 0.0], [45.0, 0.0], [40.0, 0.0]])
    ranking = log_odds(class_scores(logits))
    assert auroc_scores(ranking, np.array([0, 0, 1, 1])).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(ranking[:, 0], [60, 50, 45, 40])


@given(st.lists(st.floats(-8, 8), min_size=4, max_size=4))
def test_log_odds_are_those_of_the_softmax(scores):
    p = torch.softmax(torch.tensor([scores], dtype=torch.double), dim=1).numpy()
    expected = np.log(p / (1 - p))
    np.testing.assert_allclose(log_odds(np.array([scores])), expected, rtol=1e-6, atol=1e-9)


def test_a_class_that_is_impossible_has_a_rank_too():
    ranking = log_odds(class_scores(torch.tensor([[-torch.inf, 0.0], [0.0, 0.0]])))
    assert np.isfinite(ranking).all()
    assert ranking[0, 0] < ranking[1, 0] == 0 < ranking[0, 1]


def test_variance_of_the_area_is_that_of_delong():
    # Two classes: sum of (score - area)^2 / n^2 is S10/m + S01/n of DeLong et al. 1988, with
    # divisors m and n in place of m - 1 and n - 1, and both columns carry the same area.
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1], [12, 12])
    p = np.clip(rng.normal(0.5 + 0.2 * truth, 0.3), 0.01, 0.99)
    scores = auroc_scores(np.stack([1 - p, p], axis=1), truth).astype(float)
    wins = (p[truth == 1][:, None] > p[truth == 0][None, :]).astype(float)
    delong = wins.mean(axis=1).var() / 12 + wins.mean(axis=0).var() / 12
    assert np.sum((scores - scores.mean()) ** 2) / 24**2 == pytest.approx(delong, rel=1e-5)


def test_a_tie_for_the_most_probable_class_is_an_error():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])
    assert is_correct(probabilities, np.array([0, 1, 2])).tolist() == [0, 1, 0]


def test_a_query_among_fewer_counts_for_more_of_the_area() -> None:
    """Three classes of two queries: an area has 2 positives and 4 negatives."""
    ranking = np.eye(3).repeat(2, axis=0)
    ranking[1:3, 0] = 0.5, 0.7  # a negative above one positive: 7/8 of the pairs are right
    scores = auroc_scores(ranking, np.arange(3).repeat(2))
    positives = (np.array([1, 3 / 4]) - 7 / 8) * 6 / 2
    negatives = (np.array([1 / 2, 1, 1, 1]) - 7 / 8) * 6 / 4
    expected = (7 / 8 + 2 + np.concatenate([positives, negatives])) / 3
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
