"""A simulation that begins from a model: where that one stood, compared with it, and it is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import yaml

from metaward.model_artefact import load_model
from tiny_run import TinyRun, metaward, simulate_tiny, weights


def test_a_run_begins_from_the_model_of_another_and_compares_itself_with_it(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    """Also where that model is gone when the run is resumed: the run has kept it."""
    first = load_model(tiny_run.path / "model")
    source = tmp_path / "source"
    shutil.copytree(tiny_run.path / "model", source)
    baselines = {"methods": ["start", "fedavg", "fedadam"]}
    run = simulate_tiny(tmp_path / "run", start=str(source), rounds=2, baselines=baselines, seed=4)
    assert run.code == 0, run.err
    began = json.loads((run.path / "rounds.jsonl").read_text().splitlines()[0])
    assert began["round_index"] == 0
    scenario = yaml.safe_load((run.path / "config.yaml").read_text())["scenario"]
    assert scenario["start_sha256"] == first.card.parameters_sha256
    assert weights(run.path)["start"] == weights(tiny_run.path)["model"]
    models = weights(run.path)
    assert models["baselines/fedavg"] != models["baselines/fedadam"]
    for name in ("model", "baselines/fedavg", "baselines/fedadam"):
        card = load_model(run.path / name).card
        assert card.privacy.start is not None
        assert card.privacy.start.parameters_sha256 == first.card.parameters_sha256
    assert "Training began from the model of study tiny" in " ".join(run.out.split())
    assert "Training began from the model of study tiny" in (run.path / "report.html").read_text()
    assert {method["name"] for method in run.report["methods"]} == {
        "meta",
        "start",
        "fedavg",
        "fedadam",
    }
    shutil.rmtree(source)
    resumed = metaward("simulate", "--resume", run.path)
    assert resumed.code == 0, resumed.err


def test_a_run_from_a_model_goes_on_where_that_model_stood(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    """An outer step of next to nothing leaves the start as it was."""
    still = {"name": "sgd", "step_size": 1e-12}
    run = simulate_tiny(
        tmp_path / "run",
        "--start",
        str(tiny_run.path),
        rounds=1,
        outer=still,
        baselines={"methods": []},
    )
    assert run.code == 0, run.err
    start, end = load_model(tiny_run.path / "model").theta, load_model(run.path / "model").theta
    for name, leaf in start.items():
        np.testing.assert_allclose(end[name], leaf, rtol=0, atol=1e-6)


def test_a_start_that_is_no_model_leaves_no_run_behind(tmp_path: Path) -> None:
    run = simulate_tiny(tmp_path / "run", "--start", str(tmp_path / "nothing"))
    assert run.code == 2
    assert "a model artefact" in run.err
    assert not run.path.exists()
