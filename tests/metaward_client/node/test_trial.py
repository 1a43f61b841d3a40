"""A trial goes the road of a real round, charges nothing and keeps nothing."""

import tempfile
from pathlib import Path

import pytest
import yaml

from metaward import cli
from metaward.errors import PrivacyError
from metaward.learner_settings import FomamlSettings
from metaward.model_settings import ModelSettings
from metaward.study import Study
from metaward.wire import STUDY_DIGEST_KEY
from metaward_client.node import trial
from metaward_client.node.trial import Field, Trial, try_round
from metaward_client.privacy.ledger import Ledger, read_ledger
from metaward_client.site_config import read_protected_policy
from metaward_sim.demo_data import write_demo

STUDY = Study(
    model=ModelSettings(filters=8, image_size=16, groups=2),
    learner=FomamlSettings(n_way=2, n_shot=1, n_query=1, inner_steps=1, episodes=1),
)
PRIVATE = """\
privacy:
  mechanism: dp-sgd
  target_epsilon: 8.0
  target_delta: 1.0e-3
  population: 100
  labels: [a, b]
  ledger: {0}/ledger
  witness: {0}/witness
"""


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_demo(folder, hospitals=1, patients=4, seed=1, workers=1)
    [site] = folder.iterdir()
    return site


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def with_policy(hospital: Path, tmp_path: Path, policy: str) -> Path:
    text = (hospital / "site.yaml").read_text()
    for name in ("images", "labels.csv", "cache"):
        text = text.replace(f": {name}\n", f": {hospital / name}\n")
    (tmp_path / "site.yaml").write_text(text + policy)
    return tmp_path


def test_all_that_would_leave_is_listed_and_nothing_is_kept(
    hospital: Path, tmp_path: Path, temporary: Path
) -> None:
    done = try_round(with_policy(hospital, tmp_path, "privacy: {mechanism: none}\n"), STUDY)
    records = {(field.record, field.name) for field in done.leaves}
    settings = {name for record, name in records if record == "update"}
    assert settings == {"protocol", "round", STUDY_DIGEST_KEY, "mechanism"}
    assert {record for record, _ in records} == {"update", "delta"}
    assert done.stays["outcome"] == "sent"
    assert list(temporary.iterdir()) == []


def test_a_trial_under_a_mechanism_charges_the_sites_ledger_nothing(
    hospital: Path, tmp_path: Path, temporary: Path
) -> None:
    site = with_policy(hospital, tmp_path, PRIVATE.format(tmp_path))
    policy = read_protected_policy(site, without="", next_step="")
    Ledger.create(policy.ledger, policy.witness, policy.budget)
    done = try_round(site, STUDY)
    assert done.mechanism == "patient DP-SGD"
    assert read_ledger(policy.ledger, policy.witness).releases == []
    assert list(temporary.iterdir()) == []


def test_a_round_that_would_be_refused_says_why(
    hospital: Path, tmp_path: Path, temporary: Path
) -> None:
    policy = PRIVATE.format(tmp_path).replace("8.0", "0.001")
    with pytest.raises(PrivacyError, match="refused with the number 105"):
        try_round(with_policy(hospital, tmp_path, policy), STUDY)
    assert list(temporary.iterdir()) == []


def test_a_trial_prints_whole_what_would_leave_on_80_columns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest, array = "0123456789abcdef" * 4, "blocks.3.normalisation.weight[0]" * 2
    leaves = (Field("update", "study", digest, 64), Field("delta", array, "float32, 64 x 64", 4))
    monkeypatch.setattr(trial, "try_round", lambda *_: Trial("no mechanism", leaves, {}))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY.model_dump(mode="json")))
    assert cli.run(["site", "trial", str(tmp_path), str(tmp_path / "study.yaml")]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    _, _, names, whats, *_ = (
        "".join(cell.strip() for cell in cells) for cells in zip(*rows, strict=True)
    )
    assert digest in whats
    assert array in names
