"""`metaward predict`: a finding and scores for each image, and nothing for what is no image."""

import csv
import json
import os
import shutil
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from metaward.adapted_model import load_adapted
from metaward_client.prediction import Prediction, Predictions, as_csv, as_json
from metaward_client.site import load_site
from small_disk import needs_a_disk, small_disk
from tiny_run import TinyRun, assert_refused, metaward


@pytest.fixture(scope="module")
def model(tiny_run: TinyRun, newcomer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapted") / "model"
    done = metaward("adapt", tiny_run.path, "--site", newcomer, "--out", out)
    assert done.code == 0, done.err
    return out


def usable(site: Path) -> list[Path]:
    loaded = load_site(site)
    return [loaded.config.data.root / image.file.path for image in loaded.scan().images]


@pytest.fixture
def images(newcomer: Path, tmp_path: Path) -> Path:
    """Five images, and a text."""
    folder = tmp_path / "new"
    folder.mkdir()
    for number, path in enumerate(usable(newcomer)[:5]):
        shutil.copy(path, folder / f"{number}.dcm")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_each_image_gets_a_finding_and_the_scores_of_all(model: Path, images: Path) -> None:
    done = metaward("predict", model, images, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert [Path(row["path"]).name for row in said["predictions"]] == [
        f"{number}.dcm" for number in range(5)
    ]
    for row in said["predictions"]:
        assert list(row["scores"]) == said["labels"]
        assert sum(row["scores"].values()) == pytest.approx(1.0)
        assert row["finding"] == max(row["scores"], key=lambda label: row["scores"][label])
        assert row["sop_instance_uid"].startswith("2.25.")
    assert [(row["reason"], row["files"]) for row in said["refused"]] == [("not_dicom", 1)]


def test_an_image_is_prepared_as_the_hospitals_own_are(model: Path, newcomer: Path) -> None:
    """The scores are those of the arrays that the site's task holds of the same files."""
    site, loaded = load_site(newcomer), load_adapted(model)
    body = loaded.artefact.card.model
    _, pixels = site.decode(site.scan(), image_size=body.image_size, channels=body.channels)
    scores = loaded.scores(pixels)
    done = metaward("predict", model, *usable(newcomer)[:7], "--json")
    said = [list(row["scores"].values()) for row in json.loads(done.out)["predictions"]]
    assert said == [pytest.approx(list(row), rel=1e-5) for row in scores[:7]]


def test_a_window_of_the_hospital_is_laid_on_what_is_asked_about(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load((newcomer / "site.yaml").read_text())
    settings["data"] |= {"root": str(newcomer / "images"), "labels": str(newcomer / "labels.csv")}
    settings |= {"cache": str(tmp_path / "cache")}
    settings["preprocess"] = {"window": {"center": 40.0, "width": 60.0}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "adapted"
    done = metaward("adapt", tiny_run.path, "--site", tmp_path / "site.yaml", "--out", out)
    assert done.code == 0, done.err
    loaded, site = load_adapted(out), load_site(tmp_path / "site.yaml")
    body = loaded.artefact.card.model
    scan, pixels = site.decode(site.scan(), image_size=body.image_size, channels=body.channels)
    paths = [site.config.data.root / image.file.path for image in scan.images[:7]]
    said = json.loads(metaward("predict", out, *paths, "--json").out)["predictions"]
    expected = loaded.scores(pixels[:7])
    assert [list(row["scores"].values()) for row in said] == [
        pytest.approx(list(row), rel=1e-5) for row in expected
    ]


def test_the_table_holds_a_row_for_each_image_and_is_closed_to_others(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    done = metaward("predict", model, images, "--out", out)
    assert done.code == 0, done.err
    rows = list(csv.DictReader(out.read_text().splitlines()))
    labels = load_adapted(model).card.labels
    assert list(rows[0]) == [
        "path", "sop_instance_uid", "finding", *(f"score of {label}" for label in labels)
    ]  # fmt: skip
    assert [row["path"] for row in rows] == [str(images / f"{n}.dcm") for n in range(5)]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "5 images" in done.out
    assert "not_dicom" in done.out


def test_a_name_that_is_no_text_keeps_its_bytes_in_the_table_and_orders_the_terminal_nothing(
    model: Path, images: Path, tmp_path: Path
) -> None:
    name = os.fsencode(images) + b"/\x1b[31m\xff.dcm"
    shutil.copy(images / "0.dcm", os.fsdecode(name))
    done = metaward("predict", model, os.fsdecode(name))
    assert done.code == 0, done.err
    assert "\x1b[31m" not in done.out
    out = tmp_path / "predictions.csv"
    assert metaward("predict", model, os.fsdecode(name), "--out", out).code == 0
    assert name in out.read_bytes()


@pytest.mark.parametrize("uid", ["=1+1", "Doe^Jane", "1.2\n3", "1" * 65])
def test_what_is_no_uid_does_not_come_into_a_table_that_a_spreadsheet_opens(
    model: Path, images: Path, uid: str
) -> None:
    dataset = dcmread(images / "0.dcm")
    dataset[0x00080018] = RawDataElement(
        Tag(0x00080018), "UI", len(uid), uid.encode(), 0, False, True
    )
    dataset.save_as(images / "0.dcm")
    assert uid.encode() in (images / "0.dcm").read_bytes()
    done = metaward("predict", model, images / "0.dcm", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["predictions"][0]["sop_instance_uid"] == ""


def test_many_images_are_counted_and_the_first_are_shown(model: Path, newcomer: Path) -> None:
    paths = usable(newcomer)
    assert len(paths) > 20
    done = metaward("predict", model, newcomer / "images")
    assert done.code == 0, done.err
    assert f"{len(paths)} images: " in done.out
    assert f"and {len(paths) - 20} more images: take --out or --json" in done.out


def test_where_no_image_is_usable_nothing_is_written(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    done = metaward("predict", model, images / "notes.txt", "--out", out)
    assert_refused(done, 3, "no usable image among 1 file", "1 not_dicom")
    assert not out.exists()


def test_a_damaged_image_costs_itself_alone(model: Path, images: Path) -> None:
    content = (images / "2.dcm").read_bytes()
    (images / "2.dcm").write_bytes(content[: len(content) // 2])
    done = metaward("predict", model, images, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert [Path(row["path"]).name for row in said["predictions"]] == [
        "0.dcm", "1.dcm", "3.dcm", "4.dcm"
    ]  # fmt: skip
    assert {row["reason"] for row in said["refused"]} == {"not_dicom", "truncated_pixels"}


def test_what_cannot_be_looked_at_is_counted(model: Path, images: Path) -> None:
    (images / "gone.dcm").symlink_to(images / "nowhere.dcm")
    done = metaward("predict", model, images, "--json")
    assert done.code == 0, done.err
    refused = {row["reason"]: row["files"] for row in json.loads(done.out)["refused"]}
    assert refused == {"not_dicom": 1, "unreadable_file": 1}


def test_a_file_that_stands_there_is_not_written_over(
    model: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text("mine")
    done = metaward("predict", model, images, "--out", tmp_path / "mine.csv")
    assert_refused(done, 2, "something stands there")
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert_refused(
        metaward("predict", model, images, "--out", tmp_path / "gone" / "new.csv"), 2, "no folder"
    )


@needs_a_disk
@pytest.mark.parametrize(("fault", "said"), [("full", "disk is full"), ("ro", "disk is read-only")])
def test_a_disk_that_cannot_take_the_table_is_found_before_an_image_is_read(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    said: str,
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr("metaward_client.prediction.predict_files", read)
    with small_disk(tmp_path / "disk") as disk:
        disk.fill() if fault == "full" else disk.mount(fault)
        done = metaward("predict", model, images, "--out", disk.path / "predictions.csv")
    assert_refused(done, 2, said, "--out")


def test_an_image_that_is_not_there_is_refused_before_any_is_read(
    model: Path, images: Path, tmp_path: Path
) -> None:
    done = metaward("predict", model, images, tmp_path / "gone")
    assert_refused(done, 2, "no such file or folder", "gone")
    assert done.out == ""
    os.mkfifo(tmp_path / "pipe")
    assert_refused(metaward("predict", model, tmp_path / "pipe"), 2, "neither a file nor a folder")


def test_a_run_is_no_adapted_model(tiny_run: TinyRun, images: Path) -> None:
    done = metaward("predict", tiny_run.path, images)
    assert_refused(done, 2, "an adapted model", "metaward adapt --out")


def test_where_several_findings_have_the_highest_score_none_is_named() -> None:
    scores = [np.array([0.2, 0.4, 0.4]), np.array([0.2, 0.5, 0.3])]
    rows = tuple(Prediction(f"{number}.dcm", "", row) for number, row in enumerate(scores))
    said = Predictions(("a", "b", "c"), rows, Counter())
    assert [row["finding"] for row in as_json(said)["predictions"]] == ["", "b"]
    assert [line.split(",")[2] for line in as_csv(said).decode().split()[-2:]] == ["", "b"]
