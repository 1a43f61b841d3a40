"""Promises of the TensorBoard log, read back with TensorBoard's own reader."""

import sys

import pytest

from metaward.errors import ConfigError
from metaward.progress import RoundEvent
from metaward.report.schema import EvaluationRow, MethodSummary, PooledRow, Provenance, Report
from metaward_sim.tensorboard_log import TensorBoardLog


def report():
    fields = {"method": "meta", "shots": 5, "ci95": (0.6, 0.8)}
    row = EvaluationRow(
        site="north", mean=0.7, episodes=9, patients=9, n_way=2, queries=90, chance=0.5, **fields
    )
    pooled = PooledRow(mean=0.65, sites=("north",), worst_site="north", worst_mean=0.65, **fields)
    return Report(
        kind="simulation",
        title="Synthetic",
        synthetic_data=True,
        method="meta",
        baseline=None,
        methods=(MethodSummary(name="meta", label="Meta"),),
        learning_curve=(5,),
        sites=(),
        evaluation=(row, row.model_copy(update={"shots": 10, "mean": None})),
        comparison=(),
        pooled=(pooled,),
        provenance=Provenance(command="test"),
    )


def scalars(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(entry.step, pytest.approx(entry.value)) for entry in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_rounds_and_evaluation_come_back_as_written(tmp_path):
    with TensorBoardLog(tmp_path / "tensorboard") as log:
        log.on_round(RoundEvent(0, 2, 6, 5, {"norm": 1}, False, 0.5, 2.0, 0.1), loss=1.5)
        log.on_round(RoundEvent(1, 2, 6, 0, {}, True, 0.0, 3.0, 0.1))
        log.on_report(report())
    read = scalars(tmp_path / "tensorboard")
    assert read["training/loss"] == [(1, 1.5)]
    assert read["training/delta norm"] == [(1, 0.5)]
    assert read["training/sites admitted"] == [(1, 5.0), (2, 0.0)]
    assert read["training/sites refused"] == [(1, 1.0), (2, 0.0)]
    assert read["accuracy against shots/north/meta"] == [(5, 0.7)]
    assert read["accuracy against shots/mean over hospitals/meta"] == [(5, 0.65)]


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ConfigError, match=r"pip install 'metaward\[tensorboard\]'"):
        TensorBoardLog(tmp_path)
    assert list(tmp_path.iterdir()) == []
