"""What `metaward data` promises on the command line: answers, exit codes, one-screen errors."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from metaward import cli


@pytest.fixture(autouse=True)
def _only_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("data", "metaward_sim.data_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.npz"
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    np.savez(path, images=images, labels=np.array([0, 1, 0, 1]), patient=np.array([1, 1, 2, 2]))
    return path


def test_import_prints_what_was_taken_for_what(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "import", str(npz), "--out", str(tmp_path / "out")]
    assert cli.run([*arguments, "--label-names", "benign,malignant"]) == 0
    printed = capsys.readouterr().out
    assert "patients: array 'patient'" in printed
    assert "labels: array 'labels', named 'benign', 'malignant'" in printed
    assert "benign (2), malignant (2)" in printed
    assert f"Next: metaward site scan {tmp_path / 'out' / 'tiny'}" in printed


def test_of_thousands_of_labels_a_few_are_shown_and_the_others_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.zeros((40, 3, 3), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", images=images, labels=np.arange(40))
    arguments = ["data", "import", str(tmp_path / "many.npz"), "--out", str(tmp_path / "out")]
    assert cli.run(arguments) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "0 (1), 1 (1), 10 (1)" in printed
    assert "and 28 more" in printed
    assert "39 (1)" not in printed


def test_import_answers_machines_with_json_alone(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["data", "import", str(npz), "--out", str(tmp_path / "out"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["synthetic"] is False
    assert answer["hospitals"] == [
        {
            "name": "tiny",
            "path": str(tmp_path / "out" / "tiny"),
            "images": 4,
            "patients": 2,
            "labels": {"0": 2, "1": 2},
        }
    ]


def test_demo_says_plainly_that_it_is_synthetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "demo", "--out", str(tmp_path), "--hospitals", "1", "--patients", "1"]
    assert cli.run(arguments) == 0
    assert "All of this is synthetic" in capsys.readouterr().out
    assert cli.run([*arguments, "--force", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["synthetic"] is True
    assert len(answer["hospitals"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import", "nowhere.npz"], 2, "no such file or folder"),
        (["import", "{npz}", "--patient-column", "pateint"], 2, "did you mean 'patient'?"),
        (["import", "{npz}", "--label-names", "a"], 3, "numbers from 0 to 1, but 1 name"),
        (["import", "{npz}", "--label-names", "a,a"], 2, "'a,a' as label names"),
        (["import", "{npz}", "--name", "No Name"], 2, "'No Name' as the name of a hospital"),
        (["import", "{npz}", "--max-images", "0"], 2, "0 images"),
        (["import", "{npz}", "--max-images", "1"], 3, "no image is left"),
        (["import", "{npz}", "--modality", "PET"], 2, "Invalid value for '--modality'"),
        (["demo", "--hospitals", "0"], 2, "0 for hospitals"),
        (["demo", "--seed", "-1"], 2, "-1 for seed"),
    ],
)
def test_a_mistake_gets_one_screen_and_its_exit_code(
    npz: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    filled = [part.format(npz=npz) for part in arguments]
    assert cli.run(["data", *filled, "--out", str(tmp_path / "out")]) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_a_table_without_a_column_of_paths_is_told_the_option_of_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text("where,label\na.png,x\n")
    arguments = ["data", "import", str(tmp_path / "table.csv"), "--out", str(tmp_path / "out")]
    assert cli.run(arguments) == 2
    assert "--path-column" in capsys.readouterr().err


def test_the_next_command_can_be_pasted_whatever_the_path(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "im out ü"
    assert cli.run(["data", "import", str(npz), "--out", str(out), "--name", "flat"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("Next: ")]
    assert shlex.split(line)[1:] == ["metaward", "site", "scan", str(out / "flat")]


def test_a_second_import_needs_force(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "import", str(npz), "--out", str(tmp_path / "out")]
    assert cli.run(arguments) == 0
    assert cli.run(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.run([*arguments, "--force"]) == 0


@pytest.mark.parametrize("verb", ["import", "demo"])
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", verb, "--help"]) == 0
    assert f"Example: metaward data {verb}" in capsys.readouterr().out


def test_the_command_imports_nothing_heavy_at_the_top() -> None:
    program = (
        "import sys, metaward_sim.data_command; "
        "heavy = {'numpy', 'torch', 'pydicom', 'PIL', 'scipy', 'flwr'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
