"""What is compared at a new site, and what the report of it says."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from metaward.adapt_settings import TRAINING_ALONE
from metaward.arrays import to_arrays
from metaward.errors import ConfigError
from metaward.evaluation import evaluate_site
from metaward.evaluation_design import EvaluationPlan
from metaward.learner_settings import (
    FedAvgSettings,
    HallucinationSettings,
    LearnerSettings,
    MannSettings,
    MatchingSettings,
    MetaSgdSettings,
    RelationSettings,
    SiameseSettings,
)
from metaward.meta.compose import build_learner, initial_parameters
from metaward.model_artefact import ModelCard, load_model, save_model
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.privacy_statement import PrivacyStatement
from metaward.study import Study
from metaward.tasks import Task
from metaward_client.new_site import candidates, new_site_report, took_part
from tiny_run import TinyRun

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_is_compared_with_each_baseline_it_trained_and_two_untrained_ones(
    tiny_run: TinyRun,
) -> None:
    chosen = candidates(tiny_run.path)
    names = [method.name for method in chosen.methods]
    assert names == ["meta", "fedavg", "pooled", "local", "random"]
    assert [summary.name for summary in chosen.summaries] == names
    assert "prototypical network" in chosen.summaries[0].description


def test_each_baseline_adapts_from_its_own_parameters_in_its_own_way(tiny_run: TinyRun) -> None:
    chosen = {method.name: method for method in candidates(tiny_run.path).methods}
    folders = {"meta": "model", "fedavg": "baselines/fedavg", "pooled": "baselines/pooled"}
    for name, folder in folders.items():
        trained = load_model(tiny_run.path / folder)
        assert chosen[name].learner == trained.card.learner
        assert trained.card.learner != FedAvgSettings()  # or this would say nothing
        for leaf, values in trained.theta.items():
            np.testing.assert_array_equal(chosen[name].theta[leaf], values)


def test_a_model_alone_is_compared_with_the_two_untrained_ones(tiny_run: TinyRun) -> None:
    chosen = candidates(tiny_run.path / "model")
    assert [method.name for method in chosen.methods] == ["meta", "local", "random"]


def test_the_untrained_ones_start_where_the_training_started(tiny_run: TinyRun) -> None:
    chosen = {method.name: method for method in candidates(tiny_run.path).methods}
    start = build_body(chosen["meta"].model, seed=3).initial_parameters()
    for name, leaf in start.items():
        for method in ("local", "random"):
            np.testing.assert_array_equal(chosen[method].theta[name], leaf.numpy())
    assert chosen["random"].learner == chosen["meta"].learner
    assert build_learner(chosen["local"].learner)


@pytest.mark.parametrize(
    "learner",
    [
        HallucinationSettings(),
        MannSettings(),
        MatchingSettings(full_context=True),
        MetaSgdSettings(),
        RelationSettings(),
        SiameseSettings(),
    ],
    ids=lambda learner: learner.name,
)
def test_a_model_with_more_than_a_body_is_compared_with_training_alone(
    tmp_path: Path, learner: LearnerSettings
) -> None:
    study = Study(model=ModelSettings(filters=4, image_size=16, groups=1), learner=learner)
    theta = to_arrays(initial_parameters(study.model, learner, 0))
    card = ModelCard.of_study(study, PrivacyStatement(), method="meta", label="Shared model")
    save_model(tmp_path / "model", card, theta)
    images = np.random.default_rng(0).random((12, 1, 16, 16)).astype(np.float32)
    task = Task("valley", images, np.repeat(np.arange(2), 6), np.arange(12), ("a", "b"))
    plan = EvaluationPlan(shots=(1,), n_way=2, n_query=1, episodes=2)
    evaluation = evaluate_site(task, candidates(tmp_path / "model").methods, plan)
    assert evaluation.methods == ("meta", "local", "random")


def test_a_hospital_trains_alone_as_it_did_in_the_run(tiny_run: TinyRun, tmp_path: Path) -> None:
    def alone(path: Path) -> LearnerSettings:
        return next(method.learner for method in candidates(path).methods if method.name == "local")

    in_the_run = TRAINING_ALONE.model_copy(update={"steps": 1})
    assert alone(tiny_run.path) == FedAvgSettings(adapt=in_the_run)
    shutil.copytree(tiny_run.path / "model", tmp_path / "model")
    (tmp_path / "config.yaml").write_text("study: {name: not-a-simulation}\n")
    for elsewhere in (tiny_run.path / "model", tmp_path):
        assert alone(elsewhere) == FedAvgSettings(adapt=TRAINING_ALONE)


def test_a_baseline_of_a_later_version_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.path / "model", tmp_path / "run/model")
    shutil.copytree(tiny_run.path / "baselines/fedavg", tmp_path / "run/baselines/fedavg")
    card = tmp_path / "run/baselines/fedavg/model.yaml"
    card.write_text(card.read_text().replace("method: fedavg", "method: scaffold"))
    with pytest.raises(ConfigError, match="a baseline called scaffold") as caught:
        candidates(tmp_path / "run")
    assert "fedavg" in caught.value.expected


def test_a_run_and_the_model_in_it_know_who_took_part_and_a_moved_model_does_not(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    for path in (tiny_run.path, tiny_run.path / "model"):
        asked = {name: took_part(path, name) for name in ("alder", "birch", "cedar")}
        assert asked == {"alder": True, "birch": True, "cedar": False}
    shutil.copytree(tiny_run.path / "model", tmp_path / "model")
    assert not took_part(tmp_path / "model", "alder")


def test_the_report_says_which_site_which_model_and_when(tiny_run: TinyRun) -> None:
    labels = np.repeat(np.arange(3), 4)
    images = np.random.default_rng(0).random((12, 1, 16, 16)).astype(np.float32)
    task = Task("valley", images, labels, np.arange(12), ("a", "b", "c"))
    report = new_site_report(
        candidates(tiny_run.path),
        task,
        EvaluationPlan(shots=(1, 50), n_way=3, n_query=1, episodes=3, seed=8),
        map,
        command="metaward evaluate",
        now=datetime(2026, 1, 2, tzinfo=UTC),
        synthetic=False,
    )
    assert (report.kind, report.title, report.synthetic_data) == (
        "new-site",
        "tiny at valley",
        False,
    )
    assert (report.method, report.baseline) == ("meta", "local")
    assert report.provenance.seeds == {"evaluation": 8, "training": 3}
    assert report.provenance.started == "2026-01-02T00:00:00+00:00"
    assert report.provenance.model_sha256 == tiny_run.report["provenance"]["model_sha256"]
    assert {row.site for row in report.evaluation} == {"valley"}
    assert [(row.site, row.shots) for row in report.left_out] == [("valley", 50)]
    assert {row.reference for row in report.comparison} == {"fedavg", "pooled", "local", "random"}
