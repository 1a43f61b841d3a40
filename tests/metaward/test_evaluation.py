"""Promises of the evaluation of a site that took no part."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from metaward.clustered_variance import support_role, variance_of_mean
from metaward.episode_scores import score_episodes
from metaward.evaluation import evaluate_site
from metaward.evaluation_design import EvaluationPlan, episode_rng
from metaward.workers import WorkerPool
from striped_site import PLAN, method, same_scores, striped_task


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def evaluation():
    return evaluate_site(striped_task(), (method("first", 0), method("second", 1)), PLAN)


def test_every_query_of_every_episode_is_scored_once_per_method_and_shots(evaluation):
    n = 7 * 3 * 4
    assert evaluation.scores.correct.shape == (2, 2, n)
    assert evaluation.queries == n
    assert evaluation.episodes == 7
    assert np.bincount(evaluation.scores.episode).tolist() == [12] * 7


def test_who_was_adapted_on_is_kept_for_each_episode_and_was_not_asked(evaluation):
    assert evaluation.scores.support.shape == (7, 3, 3)
    for episode in range(7):
        asked = evaluation.scores.patient[evaluation.scores.episode == episode]
        assert not set(evaluation.scores.support[episode].flat) & set(asked)


def test_support_patients_stand_in_the_order_of_the_classes_that_are_asked_about(evaluation):
    findings = np.arange(48) // 12  # of the striped task's patients
    asked = evaluation.scores.label.reshape(7, 3, 4)
    assert np.array_equal(findings[evaluation.scores.patient.reshape(7, 3, 4)], asked)
    assert np.array_equal(findings[evaluation.scores.support], asked[:, :, :3])


def test_the_interval_at_fewer_shots_knows_of_fewer_support_patients(evaluation):
    one, three = (evaluation.draws(shots).supports for shots in (1, 3))
    assert (one.shape, three.shape) == ((7, 3), (7, 9))
    assert np.array_equal(one, evaluation.scores.support[:, :, 0])
    assert np.array_equal(three.reshape(7, 3, 3), evaluation.scores.support)


def test_what_support_patients_do_is_taken_from_episodes_that_adapt_on_few_of_them():
    """Of six patients, three are adapted on in every second episode: who is not is hardly told."""
    plan = EvaluationPlan(shots=(1, 3), n_way=3, n_query=4, episodes=40, seed=5)
    few = evaluate_site(striped_task(patients=6), (method("first", 0), method("other", 1)), plan)
    assert few.draws(1).support_share.max() <= 1 / 3 < few.draws(3).support_share.max()

    def error(values, fewer):
        role = support_role(fewer - fewer.mean(), few.draws(1))
        return variance_of_mean(values - values.mean(), few.draws(3), role) ** 0.5

    ones, threes = few.scores.correct[:, 0].astype(float), few.scores.correct[:, 1].astype(float)
    found = few.estimate("first", 3).standard_error
    assert found == pytest.approx(error(threes[0], ones[0]), rel=1e-12)
    found = few.difference("first", "other", 3).standard_error
    assert found == pytest.approx(error(threes[0] - threes[1], ones[0] - ones[1]), rel=1e-12)


def test_what_support_patients_do_is_taken_from_the_most_shots_that_still_tell():
    plan = EvaluationPlan(shots=(1, 2, 6), n_way=3, n_query=3, episodes=40, seed=5)
    site = evaluate_site(striped_task(), (method("first", 0),), plan)
    shares = [site.draws(k).support_share.max() for k in plan.shots]
    assert shares[1] <= 1 / 3 < shares[2]

    def error(shots, told_by):
        values, told = (
            site.scores.correct[0, plan.shots.index(k)].astype(float) for k in (shots, told_by)
        )
        role = support_role(told - told.mean(), site.draws(told_by))
        return variance_of_mean(values - values.mean(), site.draws(shots), role) ** 0.5

    assert error(6, 2) != pytest.approx(error(6, 1), rel=1e-3)
    for shots in (2, 6):
        found = site.estimate("first", shots).standard_error
        assert found == pytest.approx(error(shots, 2), rel=1e-12)


def test_where_no_shots_tell_the_fewest_do():
    plan = EvaluationPlan(shots=(1, 2), n_way=3, n_query=2, episodes=40, seed=5)
    small = evaluate_site(striped_task(n_labels=3, patients=3), (method("first", 0),), plan)
    assert small.draws(1).support_share.max() > 1 / 3
    ones, twos = small.scores.correct[0].astype(float)
    role = support_role(ones - ones.mean(), small.draws(1))
    expected = variance_of_mean(twos - twos.mean(), small.draws(2), role) ** 0.5
    assert small.estimate("first", 2).standard_error == pytest.approx(expected, rel=1e-12)


def test_an_area_may_fall_as_far_as_two_patients_of_an_unseen_kind_take_it(evaluation):
    right = np.ones_like(evaluation.scores.correct)
    scores = replace(evaluation.scores, correct=right, auroc=right.astype(np.float32))
    perfect = replace(evaluation, scores=scores)
    accuracy, area = (perfect.estimate("first", 1, metric).low for metric in ("accuracy", "auroc"))
    assert area == pytest.approx(accuracy**2)


def test_queries_are_balanced_by_class(evaluation):
    for episode in range(7):
        labels = evaluation.scores.label[evaluation.scores.episode == episode]
        assert sorted(np.unique(labels, return_counts=True)[1]) == [4, 4, 4]


def test_easy_stripes_are_recognised_and_more_labels_help(evaluation):
    assert evaluation.estimate("first", 3).mean > 0.8
    assert evaluation.estimate("first", 3).mean >= evaluation.estimate("first", 1).mean
    assert evaluation.estimate("first", 3, "auroc").mean > 0.9


@pytest.mark.parametrize("episodes_per_job", [1, 3, 100])
def test_grouping_episodes_into_jobs_changes_no_bit(evaluation, episodes_per_job):
    again = evaluate_site(
        striped_task(),
        (method("first", 0), method("second", 1)),
        PLAN,
        episodes_per_job=episodes_per_job,
    )
    assert same_scores(evaluation, again)


def test_another_seed_draws_other_episodes(evaluation):
    plan = EvaluationPlan(shots=(1, 3), n_way=3, n_query=4, episodes=7, seed=6)
    other = evaluate_site(striped_task(), (method("first", 0), method("second", 1)), plan)
    assert not np.array_equal(evaluation.scores.patient, other.scores.patient)


def test_neighbouring_seeds_share_no_episode():
    """Else the mean over seeds would count most episodes several times."""
    drawn = {
        tuple(episode_rng(seed, site, episode).random(2))
        for seed in range(6)
        for site in ("north", "south")
        for episode in range(6)
    }
    assert len(drawn) == 6 * 2 * 6


def test_an_episode_is_the_same_in_every_process_and_on_every_machine():
    """The numbers are those of this release: others would change all published figures."""
    assert episode_rng(5, "north", 3).bit_generator.random_raw(2).tolist() == [
        4386179364653198644,
        11765172953176777715,
    ]


def test_no_two_episodes_ask_about_the_same_patients(evaluation):
    asked = evaluation.scores.patient.reshape(7, -1)
    assert len({tuple(sorted(row)) for row in asked.tolist()}) == 7


def test_two_sites_draw_different_episodes_from_equal_data(evaluation):
    elsewhere = evaluate_site(striped_task(site="south"), (method("first", 0),), PLAN)
    assert not np.array_equal(evaluation.scores.patient, elsewhere.scores.patient)


def test_a_method_scores_the_same_whatever_stands_beside_it(evaluation):
    alone = evaluate_site(striped_task(), (method("second", 1),), PLAN)
    assert np.array_equal(alone.scores.correct[0], evaluation.scores.correct[1])


def test_equal_methods_differ_by_exactly_zero():
    twins = evaluate_site(striped_task(), (method("one", 0), method("two", 0)), PLAN)
    difference = twins.difference("one", "two", 1)
    assert difference.mean == 0.0
    assert not difference.excludes_zero


def test_fewer_episodes_are_the_first_of_more(evaluation):
    plan = EvaluationPlan(shots=(1, 3), n_way=3, n_query=4, episodes=3, seed=5)
    short = evaluate_site(striped_task(), (method("first", 0), method("second", 1)), plan)
    n = short.queries
    assert np.array_equal(short.scores.patient, evaluation.scores.patient[:n])


def test_supports_are_nested_and_never_share_a_patient_with_the_queries(monkeypatch):
    seen = []

    class Spy:
        def adapt(self, _body, _theta, support):
            seen.append(support)
            return lambda images: torch.zeros(len(images), support.n_way)

    monkeypatch.setattr("metaward.episode_scores.build_learner", lambda _: Spy())
    task = striped_task()
    evaluate_site(task, (method("spy", 0),), PLAN)
    for one, three in zip(seen[0::2], seen[1::2], strict=True):
        assert len(one.images) == 3
        assert len(three.images) == 9
        assert torch.equal(one.images, three.images[[0, 3, 6]])
        assert three.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_classifier_that_says_the_same_for_all_is_never_right(monkeypatch):
    class Constant:
        def adapt(self, _body, _theta, support):
            return lambda images: torch.ones(len(images), support.n_way)

    monkeypatch.setattr("metaward.episode_scores.build_learner", lambda _: Constant())
    result = evaluate_site(striped_task(), (method("constant", 0),), PLAN)
    assert result.estimate("constant", 1).mean == 0.0
    assert result.estimate("constant", 1, "auroc").mean == pytest.approx(0.5)


def test_answers_that_are_not_finite_count_as_wrong(monkeypatch):
    class Diverged:
        def adapt(self, _body, _theta, support):
            return lambda images: torch.full((len(images), support.n_way), torch.nan)

    monkeypatch.setattr("metaward.episode_scores.build_learner", lambda _: Diverged())
    result = evaluate_site(striped_task(), (method("diverged", 0),), PLAN)
    assert result.estimate("diverged", 3).mean == 0.0
    assert result.estimate("diverged", 3, "auroc").mean == pytest.approx(0.5)


def test_time_to_adapt_is_the_median_over_episodes(evaluation):
    assert 0.0 < evaluation.seconds_to_adapt("first", 1) < 5.0
    seconds = np.zeros((2, 2, 7))
    seconds[1, 0] = 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 60.0
    timed = replace(evaluation, scores=replace(evaluation.scores, adapt_seconds=seconds))
    assert timed.seconds_to_adapt("second", 1) == 0.4
    assert timed.seconds_to_adapt("second", 3) == 0.0


def test_progress_counts_finished_episodes():
    counted = []
    evaluate_site(
        striped_task(), (method("first", 0),), PLAN, episodes_per_job=3, finished=counted.append
    )
    assert counted == [3, 6, 7]


def test_jobs_carry_only_the_images_of_their_episodes_and_can_be_pickled():
    jobs = []

    def recording_map(function, waiting):
        for job in waiting:
            jobs.append(pickle.loads(pickle.dumps(job)))
            yield function(jobs[-1])

    task = striped_task(patients=200)
    result = evaluate_site(
        task, (method("first", 0),), PLAN, map_jobs=recording_map, episodes_per_job=2
    )
    assert len(jobs) == 4
    assert all(job.task.n_images <= 2 * 3 * (3 + 4) for job in jobs)
    assert same_scores(result, evaluate_site(task, (method("first", 0),), PLAN))


@pytest.mark.slow
def test_a_pool_of_workers_gives_the_same_bits(evaluation):
    with WorkerPool(2) as pool:
        pooled = evaluate_site(
            striped_task(),
            (method("first", 0), method("second", 1)),
            PLAN,
            map_jobs=pool.map,
            episodes_per_job=2,
        )
    assert same_scores(evaluation, pooled)


def test_scoring_a_job_twice_gives_the_same_bits():
    jobs = []

    def keep(function, waiting):
        jobs.extend(waiting)
        return [function(job) for job in jobs]

    evaluate_site(striped_task(), (method("first", 0),), PLAN, map_jobs=keep)
    assert np.array_equal(score_episodes(jobs[0]).auroc, score_episodes(jobs[0]).auroc)
