"""What of a plan a site can be measured by, and which plans and methods are refused."""

from dataclasses import replace

import numpy as np
import pytest

from metaward.errors import ConfigError, DataError
from metaward.evaluation import evaluate_site
from metaward.evaluation_design import EvaluationPlan, design_for
from metaward.learner_settings import SiameseSettings
from metaward.tasks import Task
from striped_site import MODEL, PLAN, method, same_scores, striped_task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_shots_that_the_site_cannot_support_are_left_out_with_the_reason():
    task = striped_task(patients=6, images=1)  # 6 images per label: at most 2 + 4
    plan = EvaluationPlan(shots=(1, 2, 5, 20), n_way=3, n_query=4, episodes=2)
    design = design_for(task, plan)
    assert design.shots == (1, 2)
    assert [left.shots for left in design.left_out] == [5, 20]
    assert "0 of 4 labels have 5 images to adapt on" in design.left_out[0].reason


def test_patients_with_several_labels_that_are_in_each_others_way_are_the_reason_given():
    """Of each label two patients with two images, who carry another label each, and one with one.

    One image to adapt on is that of the third; for two, one of the others is needed, and all three
    labels cannot have that: a is adapted on one whom b asks about, b on one of c, c on one of a.
    """
    rows = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 0)]
    labels = [label for label, _ in rows for _ in range(2)] + [0, 1, 2]
    patients = [patient for _, patient in rows for _ in range(2)] + [3, 4, 5]
    task = Task("north", np.zeros((15, 1, 4, 4), np.float32), np.array(labels), np.array(patients),
                ("a", "b", "c"))  # fmt: skip
    design = design_for(task, EvaluationPlan(shots=(1, 2), n_way=3, n_query=2, episodes=2))
    assert design.shots == (1,)
    assert design.left_out[0].reason.startswith("patients with several labels are needed on both")


def test_shots_are_measured_in_ascending_order_and_once():
    plan = replace(PLAN, shots=(3, 1, 3))
    assert design_for(striped_task(), plan).shots == (1, 3)
    once, again = (evaluate_site(striped_task(), (method("first", 0),), p) for p in (PLAN, plan))
    assert same_scores(once, again)


def test_ways_are_the_usable_labels_where_the_plan_asks_for_more():
    plan = EvaluationPlan(shots=(1,), n_way=9, n_query=4, episodes=2)
    assert design_for(striped_task(n_labels=3), plan).n_way == 3


def test_the_whole_curve_uses_the_labels_of_its_largest_shot_count():
    big, small = striped_task(n_labels=3, patients=20), 8
    keep = np.flatnonzero((big.labels != 2) | (big.patients < 40 + small))
    task = Task(big.site, big.images[keep], big.labels[keep], big.patients[keep], big.label_names)
    plan = EvaluationPlan(shots=(1, 20), n_way=2, n_query=4, episodes=2)
    design = design_for(task, plan)
    assert design.labels == ("finding 0", "finding 1")
    assert evaluate_site(task, (method("first", 0),), plan).scores.label.max() == 1


def test_a_site_with_too_few_patients_is_told_what_it_has_and_needs():
    with pytest.raises(DataError, match="finding 1: 6 images of 3 patients") as caught:
        evaluate_site(
            striped_task(n_labels=2, patients=3), (method("first", 0),), EvaluationPlan(n_query=10)
        )
    assert "at least 2 labels" in caught.value.expected


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"shots": ()}, r"shots \(\)"),
        ({"shots": (1, 0)}, r"shots \(1, 0\)"),
        ({"n_way": 1, "n_query": 0}, "n_way 1, n_query 0"),
        ({"episodes": 0}, "episodes 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_a_plan_that_measures_nothing_is_refused_when_it_is_made(asked, found):
    with pytest.raises(ConfigError, match=f"evaluation plan: {found}; expected shots of 1 or more"):
        EvaluationPlan(**asked)


def test_what_was_not_measured_is_asked_for_in_vain_with_the_reason():
    task = striped_task(patients=6, images=1)
    plan = EvaluationPlan(shots=(1, 5), n_way=3, n_query=4, episodes=2)
    found = evaluate_site(task, (method("first", 0),), plan)
    for ask in (found.estimate, found.seconds_to_adapt):
        with pytest.raises(DataError, match=r"5 shots were not measured \(0 of 4 labels have 5"):
            ask("first", 5)
        with pytest.raises(ConfigError, match="no method called 'meta'; expected one of first"):
            ask("meta", 1)
    with pytest.raises(ConfigError, match="no method called 'meta'"):
        found.difference("first", "meta", 1)
    with pytest.raises(DataError, match="0 shots were not measured; expected shots 1"):
        found.difference("first", "first", 0)


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ((), "no methods"),
        ((method("a", 0), method("a", 1)), "methods called a, a"),
        (
            (replace(method("a", 0), learner=SiameseSettings()),),
            "method a: 2 leaves of theta .* learner.weight: missing",
        ),
        (
            (replace(method("a", 0), model=MODEL.model_copy(update={"filters": 32})),),
            r"method a: .* convs.0.weight: \(16, 1, 3, 3\); expected \(32, 1, 3, 3\)",
        ),
    ],
)
def test_methods_that_cannot_be_compared_are_refused_before_any_work(methods, sentence):
    with pytest.raises(ConfigError, match=sentence):
        evaluate_site(striped_task(), methods, PLAN)


def test_a_method_may_have_leaves_that_its_learner_does_not_use():
    """As a hospital alone, which begins where the shared model did."""
    first = method("first", 0)
    more = replace(first, theta=first.theta | {"learner.rate": np.ones(1, np.float32)})
    expected = evaluate_site(striped_task(), (first,), PLAN)
    assert same_scores(evaluate_site(striped_task(), (more,), PLAN), expected)
