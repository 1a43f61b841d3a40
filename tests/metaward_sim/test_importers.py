"""What the importers promise: every image at the right place, every doubt said or refused."""

import csv
import io
import os
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread

from metaward.errors import ConfigError, DataError
from metaward.tasks import Task
from metaward_client.site import load_site
from metaward_sim.importers.image_source import ColumnChoice
from metaward_sim.importers.run import ImportRequest, ImportResult, plan_import, write_import
from metaward_sim.importers.selection import slug

DATA = os.environ.get("METAWARD_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="METAWARD_DATA is not set")


def grey(n: int, size: int = 12) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (n, size, size)).astype(np.uint8)


def save_npz(folder: Path, name: str = "set.npz", **arrays: Any) -> Path:
    path = folder / name
    np.savez_compressed(path, **arrays)
    return path


def import_to(out: Path, source: Path, **options: Any) -> ImportResult:
    columns = {
        key: options.pop(key)
        for key in ("images", "label", "patient", "site", "label_names")
        if key in options
    }
    request = ImportRequest(source=source, columns=ColumnChoice(**columns), **options)
    return write_import(plan_import(request), out)


def datasets(hospital: Path) -> list[Dataset]:
    files = [path for path in (hospital / "images").rglob("*") if path.is_file()]
    return sorted((dcmread(path) for path in files), key=lambda ds: ds.InstanceNumber)


def task_of(hospital: Path, channels: int = 1) -> Task:
    return load_site(hospital).load_task(image_size=12, channels=channels)


# --- npz ---


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
        "left out: 1 images without a label",
        "left out: 1 images without a patient",
        "left out: 1 images without a site",
    }


def test_one_hot_labels_are_read(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(3), labels=np.eye(3)[[2, 0, 2]])
    assert import_to(tmp_path / "out", source).hospitals[0].labels == {"0": 1, "2": 2}


def test_large_whole_numbers_stay_exact_as_patient_ids(tmp_path: Path) -> None:
    ids = np.array([2**53, 2**53 + 1])
    source = save_npz(tmp_path, images=grey(2), labels=np.array([0, 1]), patient=ids)
    assert import_to(tmp_path / "out", source).hospitals[0].n_patients == 2


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
    assert any("1 patient ids stand at more than one site" in text for text in result.remarks)
    assert any("1 images are left out" in text for text in result.remarks)


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


def test_imported_files_are_secondary_captures_of_the_modality_named(tmp_path: Path) -> None:
    source = save_npz(tmp_path, images=grey(1), labels=np.array([0]))
    result = import_to(tmp_path / "out", source, modality="US")
    (dataset,) = datasets(result.hospitals[0].path)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert dataset.Modality == "US"


# --- folders ---


def save_picture(path: Path, pixels: NDArray[Any] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey(1)[0] if pixels is None else pixels).save(path, **options)
    return path


def test_a_folder_per_class_becomes_one_hospital(tmp_path: Path) -> None:
    for label, n in (("cyst", 2), ("mass", 1)):
        for index in range(n):
            save_picture(tmp_path / "Skin set" / label / f"{index}.PNG")
    (tmp_path / "Skin set" / "cyst" / ".DS_Store").write_bytes(b"")
    (tmp_path / "Skin set" / "readme.txt").write_text("hello")
    result = import_to(tmp_path / "out", tmp_path / "Skin set")
    (hospital,) = result.hospitals
    assert (hospital.name, hospital.labels) == ("skin-set", {"cyst": 2, "mass": 1})
    assert any("files of other kinds (1 .txt)" in text for text in result.taken)
    assert task_of(hospital.path).n_images == 3


def test_a_site_level_above_becomes_one_hospital_each(tmp_path: Path) -> None:
    for site in ("north", "south"):
        for label in ("cyst", "mass"):
            save_picture(tmp_path / "set" / site / label / "1.png")
    result = import_to(tmp_path / "out", tmp_path / "set")
    assert [hospital.name for hospital in result.hospitals] == ["north", "south"]
    assert all(hospital.labels == {"cyst": 1, "mass": 1} for hospital in result.hospitals)


def test_split_folders_are_joined_and_are_no_hospitals(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_picture(tmp_path / "set" / split / "cyst" / "1.png")
    result = import_to(tmp_path / "out", tmp_path / "set")
    assert [(h.name, h.n_images) for h in result.hospitals] == [("set", 2)]
    assert any("splits joined" in text for text in result.taken)


def test_pictures_keep_their_depth_and_colour(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "cyst"
    save_picture(folder / "a.png", np.array([[0, 60_000]], np.uint16))
    save_picture(folder / "b.png", np.array([[[1, 2, 3]]], np.uint8))
    save_picture(folder / "c.png", np.array([[7, 8]], np.uint8))
    save_picture(folder / "d.png", np.array([[[1, 2, 3, 255]]], np.uint8))
    Image.new("1", (2, 1), 1).save(folder / "e.png")
    stored = [
        dataset.pixel_array.tolist()
        for dataset in datasets(import_to(tmp_path / "out", tmp_path / "set").hospitals[0].path)
    ]
    assert stored == [[[0, 60_000]], [[[1, 2, 3]]], [[7, 8]], [[[1, 2, 3]]], [[255, 255]]]


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save_picture(tmp_path / "set" / "cyst" / "a.jpg", np.zeros((2, 5), np.uint8), exif=exif)
    (dataset,) = datasets(import_to(tmp_path / "out", tmp_path / "set").hospitals[0].path)
    assert (dataset.Rows, dataset.Columns) == (5, 2)


def test_an_unreadable_picture_is_placed_without_naming_the_file(tmp_path: Path) -> None:
    save_picture(tmp_path / "set" / "cyst" / "a.png")
    (tmp_path / "set" / "cyst" / "miller_john.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"label 'cyst', picture 2 of 2") as caught:
        import_to(tmp_path / "out", tmp_path / "set")
    assert "miller" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_bomb_is_refused(tmp_path: Path, side: int) -> None:
    path = save_picture(tmp_path / "set" / "cyst" / "a.png", np.zeros((1, 1), np.uint8))
    raw = bytearray(path.read_bytes())
    raw[16:24] = side.to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    path.write_bytes(raw)
    with pytest.raises(DataError, match="89 million pixels"):
        import_to(tmp_path / "out", tmp_path / "set")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no PNG or JPEG pictures"),
        (["a.png"], "1 pictures under 0 folders"),
        (["x/a.png", "y/z/a.png"], "1 pictures under 1 folders, 1 pictures under 2 folders"),
        (["x/y/z/a.png"], "1 pictures under 3 folders"),
    ],
)
def test_pictures_at_other_depths_are_refused(
    tmp_path: Path, files: list[str], message: str
) -> None:
    (tmp_path / "set").mkdir()
    for name in files:
        save_picture(tmp_path / "set" / name)
    with pytest.raises(DataError, match=message):
        import_to(tmp_path / "out", tmp_path / "set")


def test_a_column_named_for_folders_is_refused(tmp_path: Path) -> None:
    save_picture(tmp_path / "set" / "cyst" / "a.png")
    with pytest.raises(ConfigError, match="list the pictures in a table"):
        import_to(tmp_path / "out", tmp_path / "set", patient="who")


# --- tables ---


def save_table(folder: Path, text: str, n_pictures: int = 3) -> Path:
    for index in range(n_pictures):
        save_picture(folder / "pictures" / f"{index}.png", np.full((2, 2), index, np.uint8))
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return folder / "table.csv"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_names_pictures_labels_sites_and_patients(tmp_path: Path, separator: str) -> None:
    lines = ["Path,Label,Site,Patient", "pictures/0.png,cyst,n,a", "pictures/1.png,mass,n,a"]
    lines += ["", "pictures/2.png,cyst,s,b"]
    text = "\ufeff" + "\r\n".join(lines).replace(",", separator)
    result = import_to(tmp_path / "out", save_table(tmp_path, text))
    north, south = result.hospitals
    assert (north.name, north.n_images, north.n_patients) == ("n", 2, 1)
    assert (south.name, south.labels) == ("s", {"cyst": 1})
    assert [d.pixel_array[0, 0] for d in datasets(north.path)] == [0, 1]


def test_paths_may_leave_their_extension_out_and_start_at_a_root(tmp_path: Path) -> None:
    table = save_table(tmp_path, "image_id,dx\n0,cyst\n2,mass\n")
    result = import_to(tmp_path / "out", table, image_root=tmp_path / "pictures")
    assert result.hospitals[0].labels == {"cyst": 1, "mass": 1}


BAD_TABLES: list[tuple[str, type[Exception], str]] = [
    ("", DataError, "no rows below a header"),
    ("path,label\n", DataError, "no rows below a header"),
    ("path,label\npictures/0.png\n", DataError, "row 2: 1 cells, but 2 columns"),
    ("path,path\n1,2\n", DataError, "'path' stands twice"),
    ("path,lable\npictures/0.png,x\n", ConfigError, r"'lable'.*--label-column"),
    ("path,label\npictures/9.png,x\n", DataError, r"row 2: a picture that is not there"),
    ("path,label\n,x\n", DataError, "row 2: no path"),
    ("path,label\n../secret.png,x\n", DataError, "leaves the folder"),
    ("path,label\n/etc/hostname,x\n", DataError, "leaves the folder"),
    ("path,label\n\n\npictures/0.png,x\npictures/0.png,y\n", DataError, "in rows 4 and 5"),
    ("path,label\n" + "x" * 5000 + ",y\n", DataError, "row 2: a path that can't be read"),
]


@pytest.mark.parametrize(("text", "kind", "message"), BAD_TABLES)
def test_tables_that_cannot_be_used_are_refused_by_row(
    tmp_path: Path, text: str, kind: type[Exception], message: str
) -> None:
    (tmp_path / "data").mkdir()
    save_picture(tmp_path / "secret.png")
    table = save_table(tmp_path / "data", text)
    with pytest.raises(kind, match=message) as caught:
        import_to(tmp_path / "out", table)
    assert "9.png" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    save_picture(tmp_path / "secret.png")
    table = save_table(tmp_path / "data", "path,label\npictures/link.png,x\n")
    (tmp_path / "data" / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leaves the folder"):
        import_to(tmp_path / "out", table)


def test_an_unreadable_picture_of_a_table_is_named_by_its_row(tmp_path: Path) -> None:
    table = save_table(tmp_path, "path,label\n\npictures/0.png,x\npictures/1.png,y\n")
    (tmp_path / "pictures" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"table\.csv, row 4: a picture that can't be read"):
        import_to(tmp_path / "out", table)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes("path,label\na.png,Zyste gro\xdf\n".encode("latin-1"))
    with pytest.raises(DataError, match="not a UTF-8 CSV table"):
        import_to(tmp_path / "out", tmp_path / "table.csv")


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


# --- real collections, where METAWARD_DATA names them ---


def real(pattern: str) -> Path:
    assert DATA is not None
    found = sorted(Path(DATA).glob(pattern))
    if not found:
        pytest.skip(f"no {pattern} under METAWARD_DATA")
    return found[0]


@needs_data
def test_ham10000_gives_one_hospital_per_acquisition_site(tmp_path: Path) -> None:
    source = real("ham10000/ham10000_28_*.npz")
    result = import_to(
        tmp_path / "out", source, site="site", patient="lesion_id", modality="XC", max_images=400
    )
    with np.load(source) as arrays:
        named = {slug(str(arrays["sites"][site])) for site in np.unique(arrays["site"])}
        labels = {str(name) for name in arrays["classes"]}
    assert {hospital.name for hospital in result.hospitals} == named
    assert all(set(hospital.labels) <= labels for hospital in result.hospitals)
    assert sum(h.n_images for h in result.hospitals) == 400
    assert any(h.n_patients < h.n_images for h in result.hospitals)
    task = task_of(result.hospitals[0].path, channels=3)
    assert task.n_patients == result.hospitals[0].n_patients


@needs_data
def test_bccd_groups_cells_by_their_smear(tmp_path: Path) -> None:
    source = real("bccd/bccd_cells_28.npz")
    result = import_to(tmp_path / "out", source, patient="source_image", max_images=200)
    (hospital,) = result.hospitals
    assert set(hospital.labels) == {"RBC", "WBC", "Platelets"}
    assert hospital.n_patients < hospital.n_images == 200


@needs_data
def test_mednist_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    result = import_to(tmp_path / "out", real("mednist6/mednist_28_all.npz"), max_images=120)
    (hospital,) = result.hospitals
    assert set(hospital.labels) == {"AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"}


@needs_data
@pytest.mark.parametrize("name", ["breastmnist", "pneumoniamnist"])
def test_medmnist_pixels_come_back_exactly(tmp_path: Path, name: str) -> None:
    source = real(f"medmnist/{name}.npz")
    result = import_to(tmp_path / "out", source, label_names=("a", "b"), max_images=150)
    stored = {dataset.pixel_array.tobytes() for dataset in datasets(result.hospitals[0].path)}
    with np.load(source) as arrays:
        given = {
            image.tobytes()
            for split in ("train", "val", "test")
            for image in arrays[f"{split}_images"]
        }
    assert stored <= given
    assert result.hospitals[0].n_images == 150
