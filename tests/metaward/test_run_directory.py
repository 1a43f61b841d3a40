"""The folders that commands make: each its own, filled to the end or gone, and read as written."""

import dataclasses
import errno
import json
from pathlib import Path

import pytest

from artefact_cases import card, parameters
from metaward.errors import ConfigError
from metaward.model_artefact import save_model
from metaward.privacy_statement import PrivacyStatement
from metaward.progress import RoundEvent
from metaward.run_directory import RunDirectory, fresh_folder, model_folder


def begun(path: Path, ended_by: BaseException) -> None:
    with fresh_folder(path) as folder:
        (folder / "below").mkdir()
        (folder / "below" / ".half").write_text("written")
        (folder / "whole.txt").write_text("written")
        raise ended_by


@pytest.mark.parametrize("ended_by", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_folder_that_was_not_filled_to_the_end_is_taken_away_with_what_is_in_it(
    ended_by: BaseException, tmp_path: Path
) -> None:
    with pytest.raises(type(ended_by)):
        begun(tmp_path / "new", ended_by)
    assert list(tmp_path.iterdir()) == []


def test_what_was_filled_to_the_end_stays(tmp_path: Path) -> None:
    with fresh_folder(tmp_path / "new") as folder:
        (folder / "whole.txt").write_text("written")
    assert (tmp_path / "new" / "whole.txt").read_text() == "written"


def test_a_new_run_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path / "a" / "b").path.is_dir()
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty")


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="other files"):
        RunDirectory.create(tmp_path)
    with pytest.raises(ConfigError, match="a file"):
        RunDirectory.create(tmp_path / "thesis.tex")


def test_a_run_is_never_overwritten_by_another(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run").write_config({"study": {"name": "demo"}})
    with pytest.raises(ConfigError, match="another run"):
        RunDirectory.create(tmp_path / "run")


def test_only_a_run_directory_opens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without config"):
        RunDirectory.open(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        RunDirectory.open(tmp_path / "nowhere")
    RunDirectory.create(tmp_path / "run").write_config({})
    assert RunDirectory.open(tmp_path / "run").config.is_file()


def test_rounds_are_read_without_a_torn_last_line(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    assert run.read_rounds() == ()
    event = RoundEvent(0, 3, 6, 5, {"norm": 1}, False, 0.5, 2.0, 0.1)
    run.rounds.write_text(json.dumps(dataclasses.asdict(event)) + '\n{"round_in')
    assert run.read_rounds() == (event,)


@pytest.mark.parametrize("line", [b'{"round_index": 0, {', b'{"rounds": 1}', b"7", b"\xff"])
def test_a_line_that_is_no_rounds_is_named_and_not_a_traceback(tmp_path: Path, line: bytes) -> None:
    run = RunDirectory.create(tmp_path / "run")
    event = RoundEvent(0, 3, 6, 5)
    whole = json.dumps(dataclasses.asdict(event)).encode()
    run.rounds.write_bytes(whole + b"\n" + line + b"\n")
    with pytest.raises(ConfigError, match="line 2 cannot be read"):
        run.read_rounds()


def test_privacy_is_written_per_site(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_privacy({"north": PrivacyStatement()})
    assert json.loads(run.privacy.read_text())["north"]["mechanism"] == "none (NOT PRIVATE)"


def test_models_and_baselines_are_found(tmp_path: Path) -> None:
    theta, run = parameters(), RunDirectory.create(tmp_path / "run")
    save_model(run.model, card(), theta)
    save_model(run.baseline("fedavg"), card(method="fedavg"), theta)
    save_model(run.baseline("local"), card(method="local"), theta)
    assert model_folder(tmp_path / "run") == run.model == model_folder(run.model)
    assert [path.name for path in run.baselines] == ["fedavg", "local"]
