"""The figures of a report are what the evaluation estimates, also after a way through JSON."""

import numpy as np
import pytest

from metaward.errors import ConfigError
from metaward.progress import RoundEvent
from metaward.report.assemble import (
    comparison_rows,
    evaluation_rows,
    pooled_rows,
    site_summary,
    training_round,
)
from metaward.report.schema import PooledRow, read_report_json, write_report_json
from metaward.tasks import Task
from report_cases import synthetic_evaluation, synthetic_report


@pytest.fixture(scope="module")
def report():
    return synthetic_report()


def test_rows_hold_what_the_evaluation_estimates(report):
    evaluation = synthetic_evaluation("riverside", seed=1)
    estimate = evaluation.estimate("meta", 5)
    row = report.row("riverside", "meta", 5)
    assert (row.mean, row.ci95) == (estimate.mean, (estimate.low, estimate.high))
    assert (row.patients, row.episodes, row.queries) == (60, 60, 1200)
    assert row.chance == 0.2
    difference = evaluation.difference("meta", "random", 10)
    assert report.difference("riverside", "random", 10).difference == difference.mean


def test_the_mean_weighs_hospitals_equally(report):
    both = [report.row(site, "meta", 5).mean for site in ("riverside", "st-anne-children")]
    pooled = report.pooled_row("meta", 5)
    assert pooled.mean == pytest.approx(sum(both) / 2)
    assert pooled.worst_site == "st-anne-children"
    assert report.pooled_row("meta", 20).sites == ("riverside",)


def test_an_area_is_compared_and_averaged_as_an_area():
    sites = [synthetic_evaluation(name, seed=i) for i, name in enumerate(("north", "south"))]
    areas = [site.estimate("meta", 5, "auroc").mean for site in sites]
    gains = [site.difference("meta", "local", 5, "auroc").mean for site in sites]
    assert abs(gains[0] - sites[0].difference("meta", "local", 5).mean) > 0.01
    rows = comparison_rows(sites, method="meta", references=["local"])
    found = {row.site: row.difference for row in rows if (row.shots, row.metric) == (5, "auroc")}
    assert found == pytest.approx({"north": gains[0], "south": gains[1], None: sum(gains) / 2})
    pooled = [
        row for row in pooled_rows(sites, ["meta"]) if (row.shots, row.metric) == (5, "auroc")
    ]
    assert [row.mean for row in pooled] == pytest.approx([sum(areas) / 2])
    assert pooled[0].worst_mean == pytest.approx(min(areas))


def test_guessing_is_right_once_in_the_classes_and_gives_half_of_an_area(report):
    chances = {(row.site, row.metric): row.chance for row in report.evaluation}
    assert chances == {
        ("riverside", "accuracy"): 1 / 5,
        ("riverside", "auroc"): 1 / 2,
        ("st-anne-children", "accuracy"): 1 / 3,
        ("st-anne-children", "auroc"): 1 / 2,
    }


def test_a_hospital_is_summed_up_by_its_images_and_by_its_patients():
    task = Task(
        site="north",
        images=np.zeros((6, 1, 4, 4), np.float32),
        labels=np.array([0, 0, 0, 1, 1, 1]),
        patients=np.array([1, 1, 2, 2, 2, 2]),
        label_names=("a", "b"),
    )
    site = site_summary(task, held_out=True)
    assert (site.images, site.patients) == (6, 2)
    assert [(label.name, label.images, label.patients) for label in site.labels] == [
        ("a", 3, 2),
        ("b", 3, 1),
    ]


def test_updates_refused_in_a_round_are_counted_over_all_reasons():
    event = RoundEvent(0, 1, 9, 5, {"norm": 3, "size": 1}, False, 0.5, 2.0)
    assert training_round(event).refused == 4


def test_json_comes_back_as_it_was_written(report, tmp_path):
    write_report_json(report, tmp_path / "report.json")
    assert read_report_json(tmp_path / "report.json") == report


def test_json_has_the_fields_that_the_format_promises(report):
    content = report.model_dump(mode="json")
    assert {"site", "method", "shots", "metric", "mean", "ci95", "episodes", "patients"} <= set(
        content["evaluation"][0]
    )
    assert {"difference", "ci95", "method", "reference"} <= set(content["comparison"][0])


def test_a_report_that_is_not_one_is_refused(tmp_path):
    for text in ("", "[]", "{", '{"format_version": 2}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ConfigError, match=r"report\.json"):
            read_report_json(tmp_path / "report.json")


def test_scores_that_are_not_finite_never_reach_the_file():
    event = RoundEvent(0, 1, 6, 6, {}, False, float("inf"), 2.0)
    assert training_round(event, loss=float("nan")).loss is None
    assert training_round(event).delta_norm is None


def test_rounding_cannot_push_a_mean_over_one():
    evaluation = synthetic_evaluation("riverside", n_way=2, shots=(1,))
    evaluation.scores.auroc[:] = np.nextafter(np.float32(1.0), np.float32(2.0))
    rows = evaluation_rows([evaluation])
    assert max(row.mean for row in rows) <= 1.0
    assert all(isinstance(row, PooledRow) for row in pooled_rows([evaluation], ["meta"]))
