"""`metaward evaluate`: the question of a hospital that took no part, and refusals."""

import json
import shutil
from pathlib import Path

import pytest

from metaward.errors import ConfigError
from metaward_client.evaluate_command import parse_shots
from small_disk import needs_a_disk, small_disk
from tiny_run import TinyRun, assert_refused, everything_in, metaward

QUICK = ("--episodes", "4", "--n-query", "1", "--n-way", "3", "--workers", "1")

PAGES_OF_ONE_REPORT_FILE = 5
"""report.json has three and report.html six."""


@pytest.fixture
def run(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A copy of the tiny run's models, to be damaged."""
    copy = tmp_path / "run"
    ignore = shutil.ignore_patterns("hospitals", "checkpoints", "baseline-runs")
    shutil.copytree(tiny_run.path, copy, ignore=ignore)
    return copy


def methods(report: dict[str, list[dict[str, str]]]) -> set[str]:
    return {row["method"] for row in report["evaluation"]}


def test_a_hospital_that_was_held_out_gets_a_report(tiny_run: TinyRun) -> None:
    site = tiny_run.path / "hospitals/cedar"
    done = metaward("evaluate", tiny_run.path, "--site", site, "--shots", "1,5", *QUICK)
    assert done.code == 0, done.err
    for words in ("hospital cedar", "NOT PRIVATE", "synthetic", "FedAvg + fine-tune"):
        assert words in done.out


def test_a_fresh_hospital_gets_every_method_of_the_run(tiny_run: TinyRun, newcomer: Path) -> None:
    done = metaward("evaluate", tiny_run.path, "--site", newcomer, "--shots", "1", *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.err == ""
    report = json.loads(done.out)
    assert report["kind"] == "new-site"
    assert report["synthetic_data"] is True
    assert methods(report) == {"meta", "fedavg", "pooled", "local", "random"}
    assert report["privacy"]["mechanism"] == "none (NOT PRIVATE)"
    assert report["provenance"]["model_sha256"] == tiny_run.report["provenance"]["model_sha256"]
    (site,) = report["sites"]
    assert (site["name"], site["held_out"]) == ("cedar", True)


def test_a_model_alone_is_enough_and_the_report_files_are_written(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "report"
    done = metaward(
        "evaluate", tiny_run.path / "model", "--site", newcomer, "--shots", "1", *QUICK,
        "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert set(everything_in(out)) == {"report.json", "report.html"}
    report = json.loads((out / "report.json").read_text())
    assert methods(report) == {"meta", "local", "random"}
    assert "NOT PRIVATE" in (out / "report.html").read_text()
    assert str(out / "report.html") in done.out


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(
    tiny_run: TinyRun, newcomer: Path
) -> None:
    def means(*options: str) -> list[float]:
        done = metaward(
            "evaluate", tiny_run.path / "model", "--site", newcomer, "--shots", "1",
            "--episodes", "12", "--n-query", "1", *options, "--json",
        )  # fmt: skip
        return [row["mean"] for row in json.loads(done.out)["evaluation"]]

    one = means("--workers", "1")
    assert means("--workers", "2") == one
    assert means("--seed", "1") != one


def test_a_hospital_that_took_part_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    before = everything_in(tiny_run.path)
    done = metaward(
        "evaluate", tiny_run.path, "--site", tiny_run.path / "hospitals/alder", *QUICK,
        "--out", tmp_path / "report",
    )  # fmt: skip
    assert_refused(done, 3, "alder took part", "a site whose patients the model has never seen")
    assert not (tmp_path / "report").exists()
    assert everything_in(tiny_run.path) == before


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model/meta.safetensors", "meta.safetensors"),
        ("model/model.yaml", "model.yaml"),
        ("baselines/fedavg/meta.safetensors", "baselines/fedavg/meta.safetensors"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_model_is_refused(
    run: Path, newcomer: Path, file: str, words: str, damage: str
) -> None:
    path = run / file
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "changed":
            path.write_bytes(content[:-3] + b"\x00\x01\x7f")
        case _:
            path.unlink()
    assert_refused(metaward("evaluate", run, "--site", newcomer, *QUICK), 2, words)


def test_a_run_without_a_model_is_refused(tmp_path: Path, newcomer: Path) -> None:
    done = metaward("evaluate", tmp_path / "gone", "--site", newcomer)
    assert_refused(done, 2, "no such file", "model.yaml", "run")


@pytest.mark.parametrize("shots", ["", "1,x", "0", "1,,5", "-1", "1.5"])
def test_wrong_shots_are_refused(tiny_run: TinyRun, newcomer: Path, shots: str) -> None:
    done = metaward("evaluate", tiny_run.path, "--site", newcomer, f"--shots={shots}")
    assert_refused(done, 2, "--shots", f"'{shots}'", "1,5,10,20")


def test_shots_of_thousands_of_digits_are_refused_and_not_shown_whole() -> None:
    with pytest.raises(ConfigError, match=r"'1+\.\.\.;") as caught:
        parse_shots("1" * 5000)
    assert len(str(caught.value)) < 500


def test_a_site_that_is_not_there_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    done = metaward("evaluate", tiny_run.path, "--site", tmp_path / "gone", *QUICK)
    assert_refused(done, 2, "no such file", "gone")


def test_a_site_without_images_is_refused_and_leaves_no_report_folder(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = metaward(
        "evaluate", tiny_run.path, "--site", tmp_path / "empty", *QUICK, "--out", tmp_path / "out"
    )
    assert_refused(done, 3, "no usable image")
    assert not (tmp_path / "out").exists()


def test_a_report_folder_that_holds_other_files_is_refused(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = metaward("evaluate", tiny_run.path, "--site", newcomer, *QUICK, "--out", tmp_path)
    assert_refused(done, 2, "a folder that holds other files", "--out")
    assert everything_in(tmp_path) == {"notes.txt": b"mine"}


@needs_a_disk
def test_a_report_that_a_full_disk_does_not_take_can_be_asked_for_again_once_there_is_room(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        asked = (
            "evaluate", tiny_run.path / "model", "--site", newcomer, "--shots", "1", *QUICK,
            "--out", disk.path / "report",
        )  # fmt: skip
        disk.fill(PAGES_OF_ONE_REPORT_FILE)
        assert_refused(metaward(*asked), 2, "the disk is full", "Then do the same again")
        disk.free()
        done = metaward(*asked)
        assert done.code == 0, done.err
        assert set(everything_in(disk.path / "report")) == {"report.json", "report.html"}
