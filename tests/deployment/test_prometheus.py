"""The alerts: promtool plays series of figures and looks who is called."""

import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = DEPLOY / "metaward.rules.yaml"
PLAYED = Path(__file__).with_name("prometheus_rules.yaml")

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def promtool(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def played(rules: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    copy = folder / "played.yaml"
    copy.write_text(PLAYED.read_text().replace("RULES", str(rules)))
    return promtool("test", "rules", copy)


def test_the_sample_configuration_and_its_rules_are_valid() -> None:
    done = promtool("check", "config", DEPLOY / "prometheus.yaml")
    assert done.returncode == 0, done.stderr
    assert "1 rule files found" in done.stdout


@pytest.mark.slow
def test_who_has_to_be_called_is_called_and_nobody_else(tmp_path: Path) -> None:
    done = played(RULES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("up{job", "0 * up{job"),
        ("metaward_superlink_up == 0\n        for: 5m", "metaward_superlink_up == 0"),
        ("metaward_superlink_up == 0", "metaward_superlink_up == 2"),
        ("14 * 86400", "17 * 86400"),
        ("14 * 86400", "9 * 86400"),
        ("or metaward_study_begun", "unless metaward_study_begun"),
        ("metaward_study_last_committed_timestamp_seconds\n            or ", ""),
        (' and on (instance, study) metaward_study_state{state=~"wanted|running"} == 1', ""),
        ("wanted|running", "running"),
        ("sum by (instance)", "-1 * sum by (instance)"),
        ("(metaward_hospital_online)", "(metaward_hospital_online * 0 + 2)"),
        (' and on (instance, study) metaward_study_state{state="running"} == 1', ""),
        ('{state="failed"} == 1', '{state="failed"} >= 0'),
        ("metaward_unreadable > 0", "metaward_unreadable >= 0"),
    ],
)
def test_a_wrong_rule_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    """The figures that are played can tell each rule from a wrong one."""
    text = " ".join(RULES.read_text().split(" "))
    flat = text.replace("\n          and on", " and on")
    assert right in flat
    changed = tmp_path / "rules.yaml"
    changed.write_text(flat.replace(right, wrong))
    assert played(changed, tmp_path).returncode != 0
