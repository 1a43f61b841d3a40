"""`metaward privacy audit` gives its evidence, releases nothing, and names nobody."""

import itertools
import json
import os
import re
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_factory import write_dicom
from metaward import cli
from metaward.model_settings import ModelSettings
from metaward.study import Study
from metaward_client import privacy_command
from metaward_client.node.approval import approve
from metaward_client.privacy.noise import NoiseSource
from metaward_client.privacy_audit import run
from metaward_client.privacy_audit.findings import Audit, Verdict
from metaward_client.privacy_audit.run import _company, small_like
from metaward_client.privacy_command import approved_networks

POLICY = """
name: north
data: {root: images}
privacy:
  mechanism: dp-sgd
  target_epsilon: 8.0
  target_delta: 1.0e-5
  population: 1000
  labels: [opaque, clear]
"""


@pytest.fixture(autouse=True)
def _only_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("privacy", "metaward_client.privacy_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])


@pytest.fixture
def _known_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take chance out: of what the audit draws and chooses, and of the noise that it tests.

    A sound mechanism fails one of the statistical checks once in a few hundred audits.
    """
    seeded, audit, keys = np.random.default_rng, run.run_audit, itertools.count(1)

    def known_audit(*given: Any, **named: Any) -> tuple[Audit, run.Pictures]:
        def new_source() -> NoiseSource:
            return NoiseSource(next(keys).to_bytes(32, "big"))

        return audit(*given, **named, new_source=new_source)

    monkeypatch.setattr(np.random, "default_rng", lambda seed=0: seeded(seed))
    monkeypatch.setattr(run, "run_audit", known_audit)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Seventeen patients with two images each, one folder per label."""
    rng = np.random.default_rng(0)
    for patient in range(17):
        label = ("opaque", "clear")[patient % 2]
        for image in range(2):
            write_dicom(
                path=tmp_path / "site" / "images" / label / f"{patient}-{image}",
                patient_id=f"SECRET{patient}",
                pixels=rng.integers(0, 4000, (32, 32), dtype=np.uint16),
            )
    (tmp_path / "site" / "site.yaml").write_text(POLICY)
    return tmp_path / "site"


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["privacy", "audit", "--help"]) == 0
    assert "metaward privacy audit /data/north/site.yaml" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "_known_randomness")
def test_a_hospital_gets_its_evidence_and_nothing_of_a_patient_is_in_it(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit"
    site = str(hospital / "site.yaml")
    assert cli.run(["privacy", "audit", site, "--quick", "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    page = (out / "audit.html").read_text()
    said = json.loads(printed)
    assert said == json.loads((out / "audit.json").read_text())
    assert said["verdict"] == "pass"
    assert said["synthetic"] is False
    for text in (page, printed):
        for secret in ("SECRET", str(tmp_path), "opaque", "data:image", " 17 "):
            assert secret not in text
    assert not (hospital / "ledger").exists()
    checks = {finding["check"]: finding["verdict"] for finding in said["findings"]}
    assert len([name for name in checks if name.startswith("sensitivity")]) == 16
    assert sorted(v for v in checks.values() if v != Verdict.PASS) == ["not shown"] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "_known_randomness")
def test_a_broken_mechanism_ends_with_exit_code_4_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        run, "poisson_sample", lambda n, q, source: np.argsort(source.uniforms(n))[: int(n * q)]
    )
    assert cli.run(["privacy", "audit", "--quick", "--out", str(tmp_path)]) == 4
    shown = capsys.readouterr()
    assert "fail      sampling" in shown.out
    assert "Privacy error" in shown.err
    page = (tmp_path / "audit.html").read_text()
    assert re.search(r"1 of \d+ checks FAILED", page)


def test_without_a_site_the_data_is_drawn_and_said_to_be() -> None:
    task, policy, data = privacy_command._drawn()
    assert "no patient's" in data
    assert task.n_patients == 40
    assert policy.target_epsilon == 8.0


def test_company_is_asked_of_the_networks_of_the_studies_that_a_site_approved(
    tmp_path: Path,
) -> None:
    assert approved_networks(tmp_path / "site.yaml") == []
    models = [ModelSettings(image_size=size) for size in (28, 64, 64)]
    for seed, model in enumerate(models):
        study = Study(seed=seed, model=model)
        approve(tmp_path / "node" / "approvals", study, "A. Officer", datetime.now(UTC))
    assert sorted(approved_networks(tmp_path / "site.yaml"), key=lambda m: m.image_size) == [
        models[0],
        models[1],
    ]
    assert approved_networks(tmp_path) == approved_networks(tmp_path / "site.yaml")
    found = _company([ModelSettings(filters=8, groups=1), *map(small_like, models)])
    assert found.verdict is Verdict.PASS
    assert {"gradients, conv4 at 28 x 28", "class sums, conv4 at 64 x 64"} < found.figures.keys()


def test_the_networks_of_an_audit_are_those_that_company_is_asked_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class AskedError(Exception):
        pass

    def company(models: list[ModelSettings]) -> None:
        raise AskedError(*(model.image_size for model in models))

    monkeypatch.setattr(run, "_sensitivity", lambda *_: iter(()))
    monkeypatch.setattr(run, "_company", company)
    task, policy, _ = privacy_command._drawn()
    networks = [ModelSettings(image_size=64), ModelSettings(image_size=28)]
    with pytest.raises(AskedError) as raised:
        run.run_audit(
            task, policy, data="", synthetic=True, effort=run.Effort.quick(),
            on_check=lambda _: None, networks=networks,
        )  # fmt: skip
    assert raised.value.args == (task.images.shape[-1], 64, 28)


@pytest.mark.parametrize("out", ["/proc/x", "{}/file/x"])
def test_a_folder_that_cannot_be_made_is_told_before_the_audit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(run, "run_audit", lambda *_, **__: pytest.fail("the audit began"))
    where = out.format(tmp_path)
    assert cli.run(["privacy", "audit", "--quick", "--out", where]) == 2
    assert where in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_told_before_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metaward.disk.os.access", lambda _, mode: mode != os.W_OK)
    monkeypatch.setattr(run, "run_audit", lambda *_, **__: pytest.fail("the audit began"))
    assert cli.run(["privacy", "audit", "--quick", "--out", str(tmp_path)]) == 2
    assert f"this user may not write to {tmp_path}" in capsys.readouterr().err


def test_an_audit_that_does_not_come_to_its_end_leaves_no_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        nowhere = str(tmp_path / "nowhere")
        assert cli.run(["privacy", "audit", nowhere, "--out", str(tmp_path / name)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
