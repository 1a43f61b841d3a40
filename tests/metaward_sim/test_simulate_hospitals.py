"""`metaward simulate --data`: hospitals of a folder are simulated, or one screen says why not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from dicom_factory import uid_of, write_dicom
from simulate_cases import assert_refused, simulate
from tiny_run import everything_in, metaward, write_scenario

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


def test_hospitals_of_a_folder_are_simulated(tmp_path: Path, hospitals: Path) -> None:
    done = simulate(tmp_path, "--data", hospitals, "--held-out", "south")
    assert done.code == 0, done.err
    assert "hospital south" in done.out
    assert "synthetic" not in done.out  # that word is for images that a program drew
    assert not (tmp_path / "run/hospitals").exists()


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
