"""Of an .npz file each image comes to its label, site and patient; what is in doubt is refused."""

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metaward.errors import ConfigError, DataError
from tiny_collections import datasets, grey, import_to, save_npz, task_of


def test_medmnist_splits_are_joined(tmp_path: Path) -> None:
    images = grey(6)
    source = save_npz(
        tmp_path,
        "tinymnist.npz",
        train_images=images[:3],
        train_labels=np.array([[0], [1], [0]], np.uint8),
        val_images=images[3:4],
        val_labels=np.array([[1]], np.uint8),
        test_images=images[4:],
        test_labels=np.array([[0], [0]], np.uint8),
    )
    result = import_to(tmp_path / "out", source, label_names=("benign", "malignant"))
    (hospital,) = result.hospitals
    assert hospital.name == "tinymnist"
    assert hospital.labels == {"benign": 4, "malignant": 2}
    stored = [dataset.pixel_array for dataset in datasets(hospital.path)]
    np.testing.assert_array_equal(stored, images)
    assert task_of(hospital.path).n_patients == 6


def test_a_subset_of_joined_splits_keeps_each_image_with_its_label(tmp_path: Path) -> None:
    images = grey(30)
    labels = np.array([f"label {image[0, 0]}" for image in images])
    parts: dict[str, Any] = {
        f"{split}_{name}": values[first:last]
        for split, first, last in (("train", 0, 17), ("val", 17, 21), ("test", 21, 30))
        for name, values in (("images", images), ("labels", labels))
    }
    result = import_to(tmp_path / "out", save_npz(tmp_path, **parts), max_images=12)
    hospital = result.hospitals[0].path
    with (hospital / "labels.csv").open(newline="") as stream:
        label_of = {row["sop_instance_uid"]: row["label"] for row in csv.DictReader(stream)}
    stored = datasets(hospital)
    given = {image.tobytes() for image in images}
    assert len({dataset.pixel_array.tobytes() for dataset in stored} & given) == 12
    for dataset in stored:
        assert label_of[dataset.SOPInstanceUID] == f"label {dataset.pixel_array[0, 0]}"


def test_sites_patients_and_names_are_found_by_their_usual_names(tmp_path: Path) -> None:
    source = save_npz(
        tmp_path,
        images=grey(5),
        labels=np.array([0, 1, 1, 0, 1]),
        site=np.array([1, 0, 1, 0, 1]),
        lesion_id=np.array(["a", "b", "c", "b", "c"]),
        classes=np.array(["naevus", "melanoma"]),
        sites=np.array(["North Clinic", "south"]),
    )
    result = import_to(tmp_path / "out", source)
    north, south = result.hospitals
    assert (north.name, north.n_images, north.n_patients) == ("north-clinic", 2, 1)
    assert (south.name, south.n_images, south.n_patients) == ("south", 3, 2)
    assert south.labels == {"melanoma": 2, "naevus": 1}
    assert task_of(south.path).label_names == ("melanoma", "naevus")
    assert any("patients: array 'lesion_id'" in sentence for sentence in result.taken)


def test_columns_can_be_named(tmp_path: Path) -> None:
    source = save_npz(
        tmp_path,
        pictures=grey(4),
        kind=np.array(["x", "y", "x", "y"]),
        labels=np.array([0, 0, 0, 0]),
        who=np.array([3, 3, 4, 4]),
        place=np.array(["w", "w", "e", "e"]),
    )
    result = import_to(
        tmp_path / "out", source, images="pictures", label="kind", patient="who", site="place"
    )
    assert [hospital.name for hospital in result.hospitals] == ["e", "w"]
    assert all(hospital.labels == {"x": 1, "y": 1} for hospital in result.hospitals)
    assert [hospital.n_patients for hospital in result.hospitals] == [1, 1]


def test_without_a_patient_column_every_image_is_a_patient_and_it_is_said(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(3), labels=np.array([0, 1, 0]))
    result = import_to(tmp_path / "out", source)
    assert result.hospitals[0].n_patients == 3
    assert any("every image counts as one patient" in remark for remark in result.remarks)


def test_patients_that_were_made_up_differ_between_hospitals(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(3), labels=np.array([0, 1, 0]))
    ids = []
    for name in ("one", "two"):
        result = import_to(tmp_path / "out", source, name=name)
        ids += [dataset.PatientID for dataset in datasets(result.hospitals[0].path)]
    assert len(set(ids)) == 6


def test_an_array_that_may_hold_patients_is_pointed_out(tmp_path: Path) -> None:
    source = save_npz(
        tmp_path,
        images=grey(60),
        labels=np.zeros(60, int),
        source_image=np.array([f"s{index // 2}" for index in range(60)]),
        file_name=np.array([f"f{index}" for index in range(60)]),
    )
    taken = " ".join(import_to(tmp_path / "out", source).taken)
    assert "--patient-column source_image" in taken
    assert "file_name" not in taken


@pytest.mark.parametrize(
    ("images", "stored", "bits"),
    [
        (np.array([[[0, 255]]], np.uint8), [[0, 255]], 8),
        (np.array([[[0, 40_000]]], np.uint16), [[0, 40_000]], 16),
        (np.array([[[-1024, 3071]]], np.int16), [[-1024, 3071]], 16),
        (np.array([[[False, True]]]), [[0, 255]], 8),
        (np.array([[[0.0, 0.5, 1.0]]], np.float32), [[0, 32_768, 65_535]], 16),
        (np.array([[[[0.0, 0.2, 1.0]]]], np.float64), [[[0, 51, 255]]], 8),
        (np.array([[[[9, 0]], [[8, 0]], [[7, 0]]]], np.uint8), [[[9, 8, 7], [0, 0, 0]]], 8),
        (np.array([[[[9], [8]]]], np.uint8), [[9, 8]], 8),
        (np.asfortranarray([[[0, 1, 2], [3, 4, 5]]], np.uint8), [[0, 1, 2], [3, 4, 5]], 8),
        (np.array([[[0, 258]]], ">u2"), [[0, 258]], 16),
    ],
)
def test_every_kind_of_pixel_follows_the_written_rule(
    tmp_path: Path, images: NDArray[Any], stored: list[Any], bits: int
) -> None:
    source = save_npz(tmp_path, images=images, labels=np.array([0]))
    (dataset,) = datasets(import_to(tmp_path / "out", source).hospitals[0].path)
    np.testing.assert_array_equal(dataset.pixel_array, stored)
    assert dataset.BitsStored == bits


def test_images_without_label_site_or_patient_are_left_out_and_counted(tmp_path: Path) -> None:
    source = save_npz(
        tmp_path,
        images=grey(5),
        labels=np.array([0.0, np.nan, 1.0, 1.0, 0.0]),
        site=np.array(["a", "a", "", "a", "a"]),
        patient=np.array(["p", "p", "p", "", "q"]),
    )
    result = import_to(tmp_path / "out", source)
    assert result.hospitals[0].n_images == 2
    assert set(result.remarks) == {
        "left out: 1 image without a label",
        "left out: 1 image without a patient",
        "left out: 1 image without a site",
    }


def test_one_hot_labels_are_read(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(3), labels=np.eye(3)[[2, 0, 2]])
    assert import_to(tmp_path / "out", source).hospitals[0].labels == {"0": 1, "2": 2}


def test_large_whole_numbers_stay_exact_as_patient_ids(tmp_path: Path) -> None:
    ids = np.array([2**53, 2**53 + 1])
    source = save_npz(tmp_path, images=grey(2), labels=np.array([0, 1]), patient=ids)
    assert import_to(tmp_path / "out", source).hospitals[0].n_patients == 2


def test_labels_of_another_length_than_the_images_are_named_with_their_length(
    tmp_path: Path,
) -> None:
    source = save_npz(tmp_path, images=grey(20), labels=np.zeros(5, np.uint8), other=np.zeros(20))
    message = r"array 'labels'.*shape 5 for 20 images.*one value for each image"
    with pytest.raises(DataError, match=message):
        import_to(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_patients_of_another_length_than_the_images_are_not_passed_over(tmp_path: Path) -> None:
    """Without them every image would be a patient, and a promise to patients one to images."""
    source = save_npz(tmp_path, images=grey(20), labels=np.arange(20) % 2, patient=np.arange(19))
    with pytest.raises(DataError, match=r"array 'patient'.*shape 19 for 20 images"):
        import_to(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_of_two_arrays_with_usual_names_the_one_that_fits_the_images_is_the_labels(
    tmp_path: Path,
) -> None:
    source = save_npz(tmp_path, images=grey(2), label=np.zeros(5), targets=np.array([0, 1]))
    assert import_to(tmp_path / "out", source).hospitals[0].labels == {"0": 1, "1": 1}


BAD_ARRAYS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"labels": np.array([0, 1])}, DataError, r"shape 2 for 3 images.*one value for each"),
    ({"labels": np.array([[0, 1]] * 3 + [[1, 1]])[1:]}, DataError, "several findings at once"),
    ({"labels": np.array([0.5, 1, 1])}, DataError, "not whole"),
    ({"labels": np.array([0, 1, 2]), "classes": np.array(["a", "b"])}, DataError, "2 names"),
    ({"images": grey(3).astype(np.int64)}, DataError, "type int64"),
    ({"images": grey(3) / 100.0}, DataError, r"image 0: .*outside \[0, 1\]"),
    ({"images": np.full((3, 2, 2), np.nan)}, DataError, r"outside \[0, 1\]"),
    ({"images": np.zeros((3, 4, 4, 4), np.uint8)}, DataError, "shape 3 x 4 x 4 x 4"),
    ({"images": np.zeros((3, 0, 4), np.uint8)}, DataError, "shape 3 x 0 x 4"),
    ({"images": np.zeros((3, 4, 4, 3), np.uint16)}, DataError, "colour images of type uint16"),
    ({"labels": np.array(["2020"] * 3, "M8[Y]")}, DataError, r"type datetime64.*astype\(str\)"),
    ({"images": np.array([None] * 3)}, DataError, "Python objects"),
    ({"labels": np.array([{}, {}, {}])}, DataError, "Python objects"),
    ({"labels": np.array([b"\xff"] * 3)}, DataError, "not UTF-8"),
    ({"images": grey(3), "labels": np.array([" "] * 3)}, DataError, "no image is left"),
]


@pytest.mark.parametrize(("arrays", "kind", "message"), BAD_ARRAYS)
def test_arrays_that_cannot_be_used_are_refused_and_nothing_is_left(
    tmp_path: Path, arrays: dict[str, Any], kind: type[Exception], message: str
) -> None:
    content = {"images": grey(3), "labels": np.array([0, 1, 0])} | arrays
    if "Python" in message:
        source = tmp_path / "set.npz"
        np.savez(source, allow_pickle=True, **content)
    else:
        source = save_npz(tmp_path, **content)
    with pytest.raises(kind, match=message):
        import_to(tmp_path / "out", source, label="labels", images="images")
    assert not (tmp_path / "out").exists()


def test_a_misspelt_column_gets_a_suggestion(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(2), labels=np.array([0, 1]), lesion=np.array([0, 1]))
    with pytest.raises(ConfigError, match=r"did you mean 'lesion'\?.*--patient-column"):
        import_to(tmp_path / "out", source, patient="leison")


def test_no_label_column_is_a_question_to_the_user(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(2), verdict=np.array([0, 1]))
    with pytest.raises(ConfigError, match=r"'verdict'.*--label-column"):
        import_to(tmp_path / "out", source)


def test_a_file_of_images_alone_is_asked_for_labels_and_not_for_their_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"array beside the images; Save it in the same file"):
        import_to(tmp_path / "out", save_npz(tmp_path, images=grey(2)))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"not an \.npz file, or damaged"):
        import_to(tmp_path / "out", tmp_path / "set.npz")


def test_a_damaged_image_array_leaves_nothing(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(50, size=64), labels=np.zeros(50, int))
    raw = bytearray(source.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    source.write_bytes(raw)
    with pytest.raises(DataError, match=r"damaged or cut short"):
        import_to(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, grey(3))
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue()[:-10])
    with pytest.raises(DataError, match="not as long as its header says"):
        import_to(tmp_path / "out", tmp_path / "set.npz")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"shape": (300, 1024, 1024), "fortran_order": False, "descr": "|u1"}
    )
    with (
        zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w") as stream,
    ):
        stream.write(header.getvalue())
        for _ in range(300):
            stream.write(bytes(2**20))
    with pytest.raises(DataError, match="one repeated value"):
        import_to(tmp_path / "out", tmp_path / "set.npz")
