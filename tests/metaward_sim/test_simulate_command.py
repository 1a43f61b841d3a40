"""`metaward simulate` with a slip in it: one screen, the right exit code, nothing half-written."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import tiny_run
from dicom_factory import uid_of, write_dicom
from tiny_run import Finished, TinyRun, everything_in, metaward, write_scenario

LABELS = ("cyst", "scar")


def write_hospital(folder: Path, *, patients: int = 4, rows: tuple[str, ...] = ()) -> Path:
    """Write a hospital with two labels, one image per patient, and more rows of its table."""
    table = ["sop_instance_uid,label"]
    for number in range(patients):
        name = f"{folder.name}-{number}"
        pixels = np.random.default_rng(number).integers(0, 4096, (16, 16)).astype(np.uint16)
        write_dicom(path=folder / "images" / name, patient_id=name, pixels=pixels)
        table.append(f"{uid_of(name)},{LABELS[number % 2]}")
    (folder / "labels.csv").write_text("\n".join([*table, *rows]))
    (folder / "site.yaml").write_text(
        yaml.safe_dump(
            {
                "name": folder.name,
                "data": {"root": "images", "labels": "labels.csv"},
                "cache": "cache",
            }
        )
    )
    return folder


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    root = tmp_path / "hospitals"
    for name in ("north", "south", "west"):
        write_hospital(root / name)
    return root


def simulate(tmp_path: Path, *words: str | Path) -> Finished:
    """Simulate the tiny scenario into ``tmp_path/run``, with changes on the command line."""
    scenario = write_scenario(
        tmp_path / "tiny.yaml",
        rounds=1,
        learner={"name": "prototypical", "n_way": 2, "n_shot": 1, "n_query": 1, "episodes": 1},
        baselines={"methods": ["random"]},
        evaluation={"shots": [1], "n_query": 1, "episodes": 2},
    )
    return metaward("simulate", scenario, *words, "--out", tmp_path / "run", "--workers", "1")


def assert_refused(done: Finished, tmp_path: Path, code: int, *words: str) -> None:
    """Check the exit code, the words of the one screen, and that no run directory was left."""
    tiny_run.assert_refused(done, code, *words)
    assert not (tmp_path / "run").exists()


def test_hospitals_of_a_folder_are_simulated(tmp_path: Path, hospitals: Path) -> None:
    done = simulate(tmp_path, "--data", hospitals, "--held-out", "south")
    assert done.code == 0, done.err
    assert "hospital south" in done.out
    assert "synthetic" not in done.out  # that word is for images that a program drew
    assert not (tmp_path / "run/hospitals").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rouds: 3\n", ("line 1, rouds", "did you mean 'rounds'?")),
        ("seed: 1\nmodel: {filters: many}\n", ("line 2, model.filters", "valid integer", "'many'")),
        ("learner: {name: protoypical}\n", ("line 1, learner", "did you mean 'prototypical'?")),
        ("baselines: {methods: [fedvag]}\n", ("line 1, baselines.methods.0", "'fedvag'")),
        ("evaluation: {shots: [0]}\n", ("evaluation.shots.0", "greater than or equal to 1")),
        ("rounds: 3\nrounds: 4\n", ("'rounds' stands twice", "line 2")),
        ("rounds: [3\n", ("not valid YAML",)),
    ],
)
def test_a_wrong_scenario_names_file_line_and_key(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    done = metaward("simulate", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert_refused(done, tmp_path, 2, str(tmp_path / "mine.yaml"), *words)


def test_every_slip_of_a_scenario_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rouds: 3\nseed: -1\ngrid: cloud\n")
    done = metaward("simulate", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert_refused(done, tmp_path, 2, "3 problems", "rouds", "seed", "grid")


def test_a_missing_scenario_is_named(tmp_path: Path) -> None:
    done = metaward("simulate", tmp_path / "gone.yaml", "--out", tmp_path / "run")
    assert_refused(done, tmp_path, 2, "no such file", "gone.yaml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--learner", "protoypical"), ("--learner", "did you mean 'prototypical'?", "fomaml")),
        (("--grid", "cloud"), ("--grid", "'in-process' or 'ray'", "cloud")),
        (("--held-out", "0"), ("0 hospitals to hold out", "--held-out")),
        (("--held-out", "alder"), ("names of held-out hospitals", "--data")),
        (("--held-out", "\N{SUPERSCRIPT TWO}"), ("--held-out", "must be a-z, 0-9 and hyphen")),
        (("--held-out", "1" * 5000), ("--held-out", "at most 64 of them")),
        (("--data", "gone"), ("there is no such folder", "gone", "metaward data import")),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path,
    options: tuple[str, ...],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(simulate(tmp_path, *options), tmp_path, 2, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--held-out", "sauth"), ("called sauth (did you mean south?)", "north, south, west")),
        (("--held-out", "3"), ("3 hospitals to hold out of 3", "from 1 to 2")),
        (("--held-out", "north,south,west"), ("all 3 hospitals are held out",)),
        (("--hospitals", "2"), ("--hospitals together with a folder of hospitals",)),
        (("--patients", "9"), ("--patients together with a folder of hospitals",)),
    ],
)
def test_a_wrong_choice_of_hospitals_is_named(
    tmp_path: Path, hospitals: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = simulate(tmp_path, "--data", hospitals, *options)
    assert_refused(done, tmp_path, 2, *words)


def test_one_hospital_is_too_few(tmp_path: Path, hospitals: Path) -> None:
    for name in ("south", "west"):
        shutil.rmtree(hospitals / name)
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 2, "1 site folder", "at least two", str(hospitals))


def test_two_hospitals_of_one_name_are_refused(tmp_path: Path, hospitals: Path) -> None:
    shutil.copy(hospitals / "north/site.yaml", hospitals / "west/site.yaml")
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 2, "two hospitals are called north")


def test_a_patient_in_two_hospitals_is_refused_and_not_named(
    tmp_path: Path, hospitals: Path
) -> None:
    pixels = np.zeros((16, 16), dtype=np.uint16)
    write_dicom(path=hospitals / "west/images/again", patient_id="north-1", pixels=pixels)
    with (hospitals / "west/labels.csv").open("a") as table:
        table.write(f"\n{uid_of('again')},cyst")
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 3, "1 patient", "north and west")
    assert "north-1" not in done.err + done.out


def test_an_image_with_two_labels_is_left_out_of_what_a_label_has(
    tmp_path: Path, hospitals: Path
) -> None:
    write_hospital(hospitals / "west", rows=(f"{uid_of('west-1')},cyst",))
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 3, "cyst: 2 images", "scar: 1 images", "site west")
    assert uid_of("west-1") not in done.err


def test_zero_usable_images_are_refused_with_the_reasons(tmp_path: Path, hospitals: Path) -> None:
    for path in (hospitals / "west/images").iterdir():
        path.write_text("no DICOM at all")
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 3, "no usable image", "not_dicom", "west")


def test_a_label_file_without_a_readable_row_leaves_no_usable_image(
    tmp_path: Path, hospitals: Path
) -> None:
    (hospitals / "west/labels.csv").write_bytes(b"sop_instance_uid,label\n1.2,\xff\xfe\n")
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 3, "no usable image among 4 files", "4 no_label", "west")


def test_a_missing_label_column_is_refused_and_no_cell_is_shown(
    tmp_path: Path, hospitals: Path
) -> None:
    (hospitals / "west/labels.csv").write_text("sop_instance_uid,finding\n1.2,cyst\n")
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 2, "no column named 'label'", "among 2", "west/labels.csv")
    assert "finding" not in done.err


def test_a_hospital_that_is_too_small_is_refused_with_its_small_labels(
    tmp_path: Path, hospitals: Path
) -> None:
    shutil.rmtree(hospitals / "north")
    write_hospital(hospitals / "north", patients=3)  # two patients with cyst, one with scar
    done = simulate(tmp_path, "--data", hospitals)
    assert_refused(done, tmp_path, 3, "site north", "scar: 1 images of 1 patients", "n_shot")
    assert "cyst:" not in done.err


def test_a_refused_run_with_other_files_beside_it_touches_none_of_them(
    tmp_path: Path, hospitals: Path
) -> None:
    before = everything_in(hospitals)
    assert simulate(tmp_path, "--data", hospitals, "--held-out", "sauth").code == 2
    after = everything_in(hospitals)
    assert {name: after[name] for name in before} == before


def test_the_corrected_command_may_use_the_same_folder(tmp_path: Path, hospitals: Path) -> None:
    (tmp_path / "run").mkdir()
    assert simulate(tmp_path, "--data", hospitals, "--held-out", "sauth").code == 2
    assert simulate(tmp_path, "--data", hospitals, "--held-out", "south").code == 0


def test_privacy_that_no_hospital_may_promise_is_refused_and_leaves_the_folder_free(
    tmp_path: Path, hospitals: Path
) -> None:
    loose = {"target_epsilon": 8.0, "target_delta": 0.05, "noise_multiplier": 3.0}
    scenario = write_scenario(tmp_path / "loose.yaml", rounds=1, privacy=loose)
    done = metaward("simulate", scenario, "--data", hospitals, "--out", tmp_path / "run")
    assert_refused(done, tmp_path, 2, "target_delta (0.05)", "hospital north")


@pytest.mark.parametrize(
    "options", [("--rounds", "9"), ("--seed", "1"), ("--tensorboard",), ("--out", "elsewhere")]
)
def test_resume_takes_no_other_option(tiny_run: TinyRun, options: tuple[str, ...]) -> None:
    before = everything_in(tiny_run.path)
    done = metaward("simulate", "--resume", tiny_run.path, *options)
    assert done.code == 2
    assert "--resume together with other settings" in done.err
    assert everything_in(tiny_run.path) == before


def test_resume_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("gone", "no such folder"),
        ("file", "a file"),
        ("folder", "without config.yaml"),
    ):
        done = metaward("simulate", "--resume", tmp_path / name)
        assert done.code == 2
        assert words in done.err
        assert str(tmp_path / name) in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    "text", ["scenario: {rouds: 3}\n", "scenario: 3\n", "a: 1\n", "- 1\n", "{\n", ""]
)
def test_resume_of_a_run_with_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(text)
    done = metaward("simulate", "--resume", tmp_path / "run")
    assert done.code == 2
    assert "config.yaml" in done.err
    assert "Traceback" not in done.err
    assert everything_in(tmp_path / "run") == {"config.yaml": text.encode()}


@pytest.mark.parametrize("kind", ["file", "full folder", "below a file"])
def test_out_must_be_a_new_or_an_empty_folder(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    match kind:
        case "file":
            out.write_text("mine")
        case "full folder":
            out.mkdir()
            (out / "notes.txt").write_text("mine")
        case _:
            (tmp_path / "notes.txt").write_text("mine")
            out = tmp_path / "notes.txt" / "run"
    before = everything_in(tmp_path)
    done = metaward("simulate", "--out", out)
    assert done.code == 2
    assert "--out" in done.err
    assert everything_in(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = metaward("simulate", "--out", tmp_path / "locked" / "run")
    assert done.code == 2
    assert "may write" in done.err


def test_an_accelerator_that_is_not_there_is_named_before_a_hospital_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(
        "metaward_sim.simulate.draw_hospitals", lambda *_, **__: pytest.fail("drawn")
    )
    ended = metaward("simulate", "--device", "cuda", "--out", str(tmp_path / "run"))
    assert ended.code == 2
    assert "0 accelerators" in ended.err
    assert not (tmp_path / "run").exists()


def test_hospitals_train_on_the_device_of_the_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def federation(*_: object, device: str, **__: object) -> None:
        asked.append(device)
        raise KeyboardInterrupt

    monkeypatch.setattr("metaward_sim.simulate.device_of", lambda _: None)
    monkeypatch.setattr("metaward_sim.training.run_federation", federation)
    scenario = write_scenario(tmp_path / "tiny.yaml", device="cuda:1")
    metaward("simulate", str(scenario), "--out", str(tmp_path / "run"))
    assert asked == ["cuda:1"]
