"""`metaward adapt`: from a shared model and a few labelled images to one that can be used."""

import json
import os
import shlex
import shutil
from pathlib import Path

import yaml

from metaward.arrays import to_arrays
from metaward.learner_settings import MannSettings
from metaward.meta.compose import initial_parameters
from metaward.model_artefact import ModelCard, save_model
from metaward.model_settings import ModelSettings
from metaward.privacy_statement import PrivacyStatement
from metaward.study import Study
from metaward_client.site import load_site
from tiny_run import Finished, TinyRun, assert_refused, everything_in, metaward


def adapted(tiny_run: TinyRun, site: Path, out: Path, *options: str | Path) -> Finished:
    return metaward("adapt", tiny_run.path, "--site", site, "--out", out, *options)


def test_a_hospital_gets_a_model_of_its_own_findings_and_how_often_it_is_right(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    done = adapted(tiny_run, newcomer, tmp_path / "adapted")
    assert done.code == 0, done.err
    card = yaml.safe_load((tmp_path / "adapted" / "adapted.yaml").read_text())
    labels = sorted({row.split(",")[1] for row in _rows_of(newcomer)})
    assert card["labels"] == labels
    asked = card["check"]["findings"]
    assert [row["label"] for row in asked] == labels
    assert sum(row["images"] for row in asked) == len(_rows_of(newcomer))
    assert "Mean over findings" in done.out
    assert "it stays at the hospital" in done.out
    for label in labels:
        assert label.split()[0] in done.out


def _rows_of(site: Path) -> list[str]:
    return (site / "labels.csv").read_text().split("\n")[1:-1]


def test_shots_bound_what_is_adapted_on_and_the_seed_says_which_images(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    cards = []
    for number, options in enumerate((("0",), ("0",), ("1",))):
        done = adapted(
            tiny_run, newcomer, tmp_path / str(number), "--shots", "1", "--seed", *options, "--json"
        )
        assert done.code == 0, done.err
        cards.append(json.loads(done.out))
    assert set(cards[0]["adapted_on"]) == {1}
    assert cards[0] == cards[1]
    assert cards[0]["kept_sha256"] != cards[2]["kept_sha256"]


def test_no_patient_is_in_the_files_or_in_what_is_printed(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(newcomer, site, ignore=shutil.ignore_patterns("cache"))
    done = adapted(tiny_run, site, tmp_path / "adapted")
    assert done.code == 0, done.err
    uids = {row.split(",")[0] for row in _rows_of(site)}
    written = b"".join(everything_in(tmp_path / "adapted").values())
    for uid in uids:
        assert uid not in done.out + done.err
        assert uid.encode() not in written


def test_a_finding_of_one_patient_is_adapted_to_and_said_not_to_be_checked(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    site, label = tmp_path / "site", _rows_of(newcomer)[0].split(",")[1]
    shutil.copytree(newcomer, site, ignore=shutil.ignore_patterns("cache"))
    others = [row for row in _rows_of(newcomer) if row.split(",")[1] != label]
    header = (newcomer / "labels.csv").read_text().split("\n")[0]
    (site / "labels.csv").write_text("\n".join([header, _rows_of(newcomer)[0], *others, ""]))
    done = adapted(tiny_run, site, tmp_path / "adapted")
    assert done.code == 0, done.err
    assert f"Not checked: there is a single patient with {label}." in done.out
    card = yaml.safe_load((tmp_path / "adapted" / "adapted.yaml").read_text())
    assert card["check"] is None
    assert 1 in card["adapted_on"]


def test_the_line_that_is_printed_can_be_typed_whatever_the_folder_is_called(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "our model"
    done = adapted(tiny_run, newcomer, out, "--shots", "1")
    assert done.code == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("Use it:"))
    assert shlex.split(line)[2:] == ["metaward", "predict", str(out), "FILES"]


def test_a_seed_that_a_card_cannot_hold_is_refused_at_once(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    done = adapted(tiny_run, newcomer, tmp_path / "adapted", "--seed", str(2**63))
    assert done.code == 2
    assert not (tmp_path / "adapted").exists()


def test_findings_that_differ_in_control_characters_alone_are_refused(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    loaded = load_site(newcomer)
    for number, image in enumerate(loaded.scan().images):
        folder = tmp_path / "site" / ("\x1bred", r"\x1bred", "other")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(loaded.config.data.root / image.file.path, folder)
    done = adapted(tiny_run, tmp_path / "site", tmp_path / "adapted")
    assert_refused(done, 3, r"differ in control characters alone: \x1bred")
    assert not (tmp_path / "adapted").exists()


def test_a_window_of_the_sites_settings_is_that_of_the_model(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load((newcomer / "site.yaml").read_text())
    settings["data"] |= {"root": str(newcomer), "labels": str(newcomer / "labels.csv")}
    settings["cache"] = str(tmp_path / "cache")
    settings["preprocess"] = {"window": {"center": 40.0, "width": 400.0}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(settings))
    done = adapted(tiny_run, tmp_path / "site.yaml", tmp_path / "adapted", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["window"] == [40.0, 400.0]


def test_findings_that_are_no_text_are_written_as_one(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    """Folders are labels, and their names any bytes: of a code page, or made to harm."""
    loaded = load_site(newcomer)
    for number, image in enumerate(loaded.scan().images):
        folder = os.fsencode(tmp_path) + (b"/site/gr\xfcn", b"/site/\x1b[31mred")[number % 2]
        Path(os.fsdecode(folder)).mkdir(parents=True, exist_ok=True)
        shutil.copy(loaded.config.data.root / image.file.path, os.fsdecode(folder))
    done = adapted(tiny_run, tmp_path / "site", tmp_path / "adapted", "--json")
    assert done.code == 0, done.err
    card = json.loads(done.out)
    assert sorted(card["labels"]) == [r"\x1b[31mred", r"gr\xfcn"]
    assert [row["label"] for row in card["check"]["findings"]] == card["labels"]
    image = next((tmp_path / "site").rglob("*red/*"))
    said = metaward("predict", tmp_path / "adapted", image)
    assert said.code == 0, said.err
    assert "\x1b[31m" not in said.out


def test_more_findings_than_a_model_has_slots_for_are_refused_and_leave_no_folder(
    newcomer: Path, tmp_path: Path
) -> None:
    study = Study(
        model=ModelSettings(filters=8, image_size=16, groups=2),
        learner=MannSettings(n_way=2, n_shot=1, n_query=1, hidden=8, memory_rows=8),
    )
    theta = to_arrays(initial_parameters(study.model, study.learner, seed=0))
    save_model(tmp_path / "model", ModelCard.of_study(study, PrivacyStatement()), theta)
    out = tmp_path / "adapted"
    done = metaward("adapt", tmp_path / "model", "--site", newcomer, "--out", out)
    assert_refused(done, 3, "at most 2, the label slots that this model has")
    assert not out.exists()


def test_what_cannot_be_adapted_leaves_no_folder(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = adapted(tiny_run, tmp_path / "empty", tmp_path / "adapted")
    assert_refused(done, 3, "no usable image")
    assert not (tmp_path / "adapted").exists()


def test_a_folder_in_which_something_stands_is_left_as_it_was(
    tiny_run: TinyRun, newcomer: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert_refused(adapted(tiny_run, newcomer, tmp_path), 2, "a folder that holds other files")
    assert everything_in(tmp_path) == {"notes.txt": b"mine"}


def test_a_folder_without_a_model_is_refused(tmp_path: Path, newcomer: Path) -> None:
    done = metaward("adapt", tmp_path, "--site", newcomer, "--out", tmp_path / "adapted")
    assert_refused(done, 2, "a model artefact")
