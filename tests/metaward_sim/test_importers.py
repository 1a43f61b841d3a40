"""Of any source: hospitals and patients stay apart, and nothing begins that can't be finished."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from metaward.errors import ConfigError, DataError
from metaward_sim.importers.selection import slug
from tiny_collections import datasets, grey, import_to, save_npz, task_of

# --- hospitals and patients ---


def shared_patient_source(folder: Path) -> Path:
    return save_npz(
        folder,
        images=grey(6),
        labels=np.array([0, 1, 0, 1, 0, 1]),
        patient=np.array(["a", "a", "A ", "b", "c", "c"]),
        site=np.array(["x", "x", "y", "y", "y", "y"]),
    )


def test_a_patient_of_two_sites_is_kept_at_the_one_with_most_images(tmp_path: Path) -> None:
    result = import_to(tmp_path / "out", shared_patient_source(tmp_path))
    assert {hospital.name: hospital.n_images for hospital in result.hospitals} == {"x": 2, "y": 3}
    assert any("1 patient id at more than one site" in text for text in result.remarks)
    assert any("1 image left out" in text for text in result.remarks)


def test_ids_that_each_site_numbers_anew_can_be_told_apart(tmp_path: Path) -> None:
    result = import_to(
        tmp_path / "out", shared_patient_source(tmp_path), shared_patients="separate"
    )
    assert {hospital.name: hospital.n_images for hospital in result.hospitals} == {"x": 2, "y": 4}
    ids = {
        hospital.name: {dataset.PatientID for dataset in datasets(hospital.path)}
        for hospital in result.hospitals
    }
    assert not ids["x"] & ids["y"]


def test_the_same_picture_under_two_patients_is_said(tmp_path: Path) -> None:
    images = grey(6)
    images[1] = images[0]  # of one patient: no harm
    images[3] = images[0]
    images[5] = images[4]
    source = save_npz(
        tmp_path,
        images=images,
        labels=np.array([0, 1, 0, 1, 0, 1]),
        patient=np.array(["a", "a", "b", "b", "c", "d"]),
        site=np.array(["x", "x", "x", "x", "x", "y"]),
    )
    remarks = import_to(tmp_path / "out", source).remarks
    assert any(
        "2 images show exactly what an image of another patient shows" in text for text in remarks
    )


def test_pictures_that_differ_are_not_remarked_on(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(6), labels=np.arange(6) % 2, patient=np.arange(6))
    assert import_to(tmp_path / "out", source).remarks == ()


def test_a_subset_takes_whole_patients_and_says_so(tmp_path: Path) -> None:
    patients = np.array([f"p{index // 3}" for index in range(30)])
    source = save_npz(tmp_path, images=grey(30), labels=np.arange(30) % 2, patient=patients)
    result = import_to(tmp_path / "out", source, max_images=10, seed=4)
    counts = Counter(dataset.PatientID for dataset in datasets(result.hospitals[0].path))
    assert set(counts.values()) == {3}
    assert len(counts) == 3
    assert "9 of 30 images, a random subset by whole patients (seed 4)" in result.remarks
    again = import_to(tmp_path / "again", source, max_images=10, seed=4)
    assert counts == Counter(d.PatientID for d in datasets(again.hospitals[0].path))
    other = import_to(tmp_path / "other", source, max_images=10, seed=5)
    assert counts != Counter(d.PatientID for d in datasets(other.hospitals[0].path))


def test_equal_imports_give_equal_bytes(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(4), labels=np.array([0, 1, 0, 1]))
    first, second = (import_to(tmp_path / out, source).hospitals[0].path for out in "ab")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 7
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)


def test_a_site_column_with_a_value_for_each_image_is_refused(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(201), labels=np.zeros(201, int), site=np.arange(201))
    with pytest.raises(DataError, match=r"201 different sites.*--site-column"):
        import_to(tmp_path / "out", source)


def test_sites_whose_names_would_collide_are_refused(tmp_path: Path) -> None:
    source = save_npz(
        tmp_path, images=grey(2), labels=np.array([0, 1]), site=np.array(["A b", "a-b"])
    )
    with pytest.raises(DataError, match="would both be 'a-b'"):
        import_to(tmp_path / "out", source)


def test_a_name_given_comes_before_the_names_of_several_sites(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(2), labels=np.array([0, 1]), site=np.array(["a", "b"]))
    result = import_to(tmp_path / "out", source, name="skin")
    assert [hospital.name for hospital in result.hospitals] == ["skin-a", "skin-b"]


def test_one_hospital_that_is_there_stops_the_whole_import(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(2), labels=np.array([0, 1]), site=np.array(["a", "b"]))
    import_to(tmp_path / "out", source)
    (tmp_path / "out" / "a").rename(tmp_path / "out" / "c")
    with pytest.raises(ConfigError, match="'b' is already there"):
        import_to(tmp_path / "out", source)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b", "c"]


@pytest.mark.parametrize(
    ("text", "name"), [("vidir_modern", "vidir-modern"), ("  A&E (2) ", "a-e-2"), ("é", "")]
)
def test_a_slug_is_a_folder_name(text: str, name: str) -> None:
    assert slug(text) == name


def test_a_label_with_a_line_break_is_written_on_one_line_and_no_image_is_lost(
    tmp_path: Path,
) -> None:
    labels = np.array(["basal cell\r\ncarcinoma", "naevus", "basal cell\ncarcinoma", "naevus"])
    (hospital,) = import_to(
        tmp_path / "out", save_npz(tmp_path, images=grey(4), labels=labels)
    ).hospitals
    assert hospital.labels == {"basal cell carcinoma": 2, "naevus": 2}
    task = task_of(hospital.path)
    assert (task.n_images, task.label_names) == (4, ("basal cell carcinoma", "naevus"))


@pytest.mark.parametrize("gap", ["nan", "NaN", "<NA>"])
def test_missing_values_that_were_saved_as_text_are_missing(tmp_path: Path, gap: str) -> None:
    source = save_npz(
        tmp_path,
        images=grey(6),
        labels=np.array(["a", gap, "b", "b", "a", "a"]),
        patient=np.array(["p", "p", gap, "q", gap, "r"]),
        site=np.array(["x", "x", "x", gap, "x", "x"]),
    )
    result = import_to(tmp_path / "out", source)
    assert [(h.name, h.n_images, h.labels) for h in result.hospitals] == [("x", 2, {"a": 2})]
    assert set(result.remarks) == {
        "left out: 1 image without a label",
        "left out: 2 images without a patient",
        "left out: 1 image without a site",
    }


def test_imported_files_are_secondary_captures_of_the_modality_named(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(1), labels=np.array([0]))
    result = import_to(tmp_path / "out", source, modality="US")
    (dataset,) = datasets(result.hospitals[0].path)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert dataset.Modality == "US"


# --- any source ---


def test_a_missing_source_is_a_question_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        import_to(tmp_path / "out", tmp_path / "nowhere")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.h5").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"'\.h5'"):
        import_to(tmp_path / "out", tmp_path / "set.h5")


def test_an_image_root_without_a_table_is_refused(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(1), labels=np.array([0]))
    with pytest.raises(ConfigError, match="--image-root without a table"):
        import_to(tmp_path / "out", source, image_root=tmp_path)


def test_too_little_space_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_npz(tmp_path, images=grey(3), labels=np.zeros(3, int))
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="GiB of free space"):
        import_to(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()
