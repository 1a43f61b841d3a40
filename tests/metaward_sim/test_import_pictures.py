"""Pictures of folders and tables: each comes to its label and hospital, or is refused by place."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaward.errors import ConfigError, DataError
from tiny_collections import datasets, import_to, save_picture, task_of

# --- folders ---


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
