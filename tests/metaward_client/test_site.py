import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dicom_factory import uid_of, write_dicom
from metaward.episodes import sample_episode
from metaward.errors import ConfigError, DataError
from metaward_client import image_cache
from metaward_client.dicom import header_reading, pixels
from metaward_client.dicom.file_workers import FileWorkers
from metaward_client.dicom.refusals import RefusalReason
from metaward_client.site import Site, load_site, patient_fingerprints

SALT = b"0123456789abcdef"


def _hospital(folder: Path, *, n_images: int = 8, prefix: str = "p") -> Path:
    """Two images per patient, labels a and b by turns of patients, brighter by image."""
    rows = ["sop_instance_uid,label"]
    for i in range(n_images):
        patient = i // 2
        grey = np.zeros((16, 16), dtype=np.uint16)
        grey[:, : i + 2] = 100
        instance = f"{prefix}{i}"
        write_dicom(
            path=folder / "pictures" / f"IM{i}",
            pixels=grey,
            patient_id=f"{prefix}{patient}",
            instance=instance,
        )
        rows.append(f"{uid_of(instance)},{'ab'[patient % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def _forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("a file was read")

    monkeypatch.setattr(header_reading, "read_header", fail)
    monkeypatch.setattr(pixels, "decode_outcome", fail)
    monkeypatch.setattr(image_cache, "FileWorkers", fail)


def test_a_task_has_images_labels_and_patients_that_belong_together(tmp_path: Path) -> None:
    task = load_site(_hospital(tmp_path / "north")).load_task(image_size=16, channels=1)
    assert task.site == "north"
    assert task.label_names == ("a", "b")
    assert task.images.shape == (8, 1, 16, 16)
    assert task.n_patients == 4
    for image, label, patient in zip(task.images, task.labels, task.patients, strict=True):
        i = round(float(image.mean()) * 16) - 2  # from how the pictures were made
        assert task.label_names[label] == "ab"[i // 2 % 2]
        same_patient = {
            round(float(m.mean()) * 16) - 2 for m in task.images[task.patients == patient]
        }
        assert same_patient == {i - i % 2, i - i % 2 + 1}


def test_an_episode_can_be_drawn_from_it(tmp_path: Path) -> None:
    task = load_site(_hospital(tmp_path / "north")).load_task(image_size=16, channels=3)
    episode = sample_episode(task, n_way=2, n_shot=1, n_query=1, rng=np.random.default_rng(0))
    assert episode.support.images.shape == (2, 3, 16, 16)


def test_a_second_call_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _hospital(tmp_path / "north")
    first = load_site(folder).load_task(image_size=16, channels=1)
    _forbid_reading(monkeypatch)
    second = load_site(folder).load_task(image_size=16, channels=1)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.patients, second.patients)


def test_the_task_does_not_depend_on_file_names_or_on_where_the_folder_is(tmp_path: Path) -> None:
    one = _hospital(tmp_path / "north")
    other = tmp_path / "elsewhere" / "north"
    shutil.copytree(one, other)
    for i, path in enumerate(sorted((other / "pictures").iterdir(), reverse=True)):
        path.rename(other / f"{i}.dcm")
    tasks = [load_site(folder).load_task(image_size=16, channels=1) for folder in (one, other)]
    np.testing.assert_array_equal(tasks[0].images, tasks[1].images)
    np.testing.assert_array_equal(tasks[0].labels, tasks[1].labels)
    np.testing.assert_array_equal(tasks[0].patients, tasks[1].patients)


def test_settings_of_the_site_are_the_default(tmp_path: Path) -> None:
    folder = _hospital(tmp_path / "north")
    (folder / "site.yaml").write_text(
        "name: n\ndata: {root: ., labels: labels.csv}\npreprocess: {size: 20, channels: 3}\n"
    )
    assert load_site(folder).load_task().images.shape == (8, 3, 20, 20)


def test_the_window_of_the_site_is_used(tmp_path: Path) -> None:
    folder = _hospital(tmp_path / "north")
    (folder / "site.yaml").write_text(
        "name: n\ndata: {root: ., labels: labels.csv}\n"
        "preprocess: {window: {center: 100, width: 200}}\n"
    )
    assert load_site(folder).load_task(image_size=16).images.max() == 0.5


def test_the_sites_own_files_are_not_counted(tmp_path: Path) -> None:
    folder = _hospital(tmp_path / "north")
    (folder / "site.yaml").write_text(
        "name: n\ndata: {root: ., labels: labels.csv}\ncache: cache\n"
    )
    site = load_site(folder)
    site.load_task(image_size=16)
    scan = site.scan()
    assert scan.n_files == 8
    assert scan.refused == {}


def test_a_link_to_itself_among_the_images_costs_itself_alone(tmp_path: Path) -> None:
    folder = _hospital(tmp_path / "north")
    (folder / "site.yaml").symlink_to("site.yaml")  # the name of one of the site's own files
    scan = load_site(folder).scan()
    assert len(scan.images) == 8
    assert scan.refused == {RefusalReason.UNREADABLE_FILE: 1}


def test_every_file_is_used_or_refused(tmp_path: Path) -> None:
    folder = _hospital(tmp_path / "north")
    (folder / "notes.txt").write_text("x")
    shutil.copy(folder / "pictures" / "IM0", folder / "copy")
    damaged = write_dicom(path=folder / "d", patient_id="p0", transfer_syntax="rle")
    damaged.write_bytes(damaged.read_bytes()[:-60] + b"\xff" * 60)
    with (folder / "labels.csv").open("a") as table:
        table.write(f"\n{uid_of('d')},a")
    site = load_site(folder)
    scan = site.scan()
    assert len(scan.images) + sum(scan.refused.values()) == scan.n_files == 11
    after, images = site.decode(scan)
    assert after.refused == {
        RefusalReason.NOT_DICOM: 1,
        RefusalReason.DUPLICATE_INSTANCE: 1,
        RefusalReason.UNDECODABLE_PIXELS: 1,
    }
    assert len(images) == len(after.images) == 8


def test_no_usable_image_is_an_error_that_lists_the_reasons(tmp_path: Path) -> None:
    write_dicom(path=tmp_path / "north" / "a" / "x", patient_id=None)
    (tmp_path / "north" / "y").write_text("x")
    with pytest.raises(DataError, match=r"no usable image among 2 files \(1 no_patient_id, 1 not_"):
        load_site(tmp_path / "north").load_task()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    with pytest.raises(DataError, match="no usable image among 0 files"):
        load_site(tmp_path / "north").load_task()


def _second_label(folder: Path) -> None:
    with (folder / "labels.csv").open("a") as table:
        table.write(f"\n{uid_of('p0')},b")


def _not_utf8(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_bytes(table.read_bytes().replace(f"{uid_of('p0')},a".encode(), b"\xfc,\xfc"))


def _open_quotation(folder: Path) -> None:
    table = folder / "labels.csv"
    row = uid_of("p0").encode()
    table.write_bytes(table.read_bytes().replace(row, b'"' + row))


@pytest.mark.parametrize("damage", [_second_label, _not_utf8, _open_quotation])
def test_what_is_wrong_with_one_image_leaves_it_out_and_no_other(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = load_site(_hospital(tmp_path / "whole")).load_task(image_size=16)
    folder = _hospital(tmp_path / "north")
    damage(folder)
    after = load_site(folder).load_task(image_size=16)
    left_out = int(np.argmin(before.images.sum(axis=(1, 2, 3), dtype=np.float64)))  # the darkest
    kept = [i for i in range(8) if i != left_out]
    np.testing.assert_array_equal(after.images, before.images[kept])
    assert [before.labels[i] for i in kept] == after.labels.tolist()
    whole, part = ([task.patient_tokens[i] for i in task.patients] for task in (before, after))
    assert [whole[i] for i in kept] == part
    assert "run `metaward site scan`" in caplog.text
    assert "p0" not in caplog.text


def test_an_image_with_two_labels_has_a_reason_of_its_own_and_the_scan_names_the_rows(
    tmp_path: Path,
) -> None:
    folder = _hospital(tmp_path / "north")
    _second_label(folder)
    scan = load_site(folder).scan()
    assert scan.refused == {RefusalReason.AMBIGUOUS_LABEL: 1}
    assert [c.rows for c in scan.join.contradictions] == [(2, 10)]


def test_a_folder_that_is_linked_into_two_label_folders_has_two_labels(tmp_path: Path) -> None:
    for patient, labels in (("p1", ("cyst", "tumour")), ("p2", ("cyst",)), ("p3", ("tumour",))):
        write_dicom(path=tmp_path / "archive" / patient / f"{patient}.dcm", patient_id=patient)
        for label in labels:
            (tmp_path / "north" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "north" / label / patient).symlink_to(tmp_path / "archive" / patient)
    scan = load_site(tmp_path / "north").scan()
    assert {image.file.path for image in scan.images} == {"cyst/p2/p2.dcm", "tumour/p3/p3.dcm"}
    assert scan.refused == {RefusalReason.AMBIGUOUS_LABEL: 2}


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
def test_of_two_copies_the_one_that_is_whole_is_used(tmp_path: Path, syntax: str) -> None:
    for name in ("a.dcm", "b.dcm"):
        path = tmp_path / "north" / "cyst" / name
        write_dicom(path=path, instance="one", transfer_syntax=syntax)
    cut = tmp_path / "north" / "cyst" / "a.dcm"
    cut.write_bytes(cut.read_bytes()[:-40])
    site = load_site(tmp_path / "north")
    scan, images = site.decode(site.scan())
    assert len(images) == 1
    assert scan.refused == {RefusalReason.TRUNCATED_PIXELS: 1}


@pytest.mark.parametrize("n_images", [0, 1])
def test_where_a_mechanism_asks_a_site_without_a_usable_image_has_an_empty_task(
    tmp_path: Path, n_images: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "north" / "pictures").mkdir(parents=True)
    folder = _hospital(tmp_path / "north", n_images=n_images)
    for path in (folder / "pictures").iterdir():  # a header that is fine, and pixels that are not
        write_dicom(path=path, patient_id="p0", instance="p0", transfer_syntax="rle")
        path.write_bytes(path.read_bytes()[:-60] + b"\xff" * 60)
    for _ in range(2):  # the second time from the cache
        task = load_site(folder).load_task(image_size=16, channels=1, may_be_empty=True)
        assert (task.n_images, task.n_patients) == (0, 0)
        assert task.images.shape == (0, 1, 16, 16)
    assert "no usable image: run `metaward site scan`" in caplog.text


def test_one_pool_serves_several_sites(tmp_path: Path) -> None:
    sites = [load_site(_hospital(tmp_path / name)) for name in ("north", "south")]
    with FileWorkers(1) as pool:
        tasks = [site.load_task(image_size=16, pool=pool) for site in sites]
    assert [task.n_images for task in tasks] == [8, 8]


def test_a_patient_in_two_hospitals_has_one_fingerprint(tmp_path: Path) -> None:
    north = load_site(_hospital(tmp_path / "north", prefix="n"))
    south = load_site(_hospital(tmp_path / "south", prefix="s"))
    assert not patient_fingerprints(north, SALT) & patient_fingerprints(south, SALT)
    path = tmp_path / "south" / "pictures" / "IM0"
    write_dicom(path=path, patient_id=" N3 ", instance="s0")  # as n3, in other letters
    shared = patient_fingerprints(north, SALT) & patient_fingerprints(south, SALT)
    assert len(shared) == 1
    assert b"n3" not in next(iter(shared)).lower()


def test_fingerprints_depend_on_the_salt_and_a_short_one_is_refused(tmp_path: Path) -> None:
    site = load_site(_hospital(tmp_path / "north"))
    assert not patient_fingerprints(site, SALT) & patient_fingerprints(site, SALT[::-1])
    with pytest.raises(ValueError, match="16 are needed"):
        patient_fingerprints(site, b"short")


def test_a_cache_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    folder = _hospital(tmp_path / "north")
    (tmp_path / "file").write_text("x")
    (folder / "site.yaml").write_text("name: n\ndata: {root: .}\ncache: ../file\n")
    with pytest.raises(ConfigError, match=r"cache folder cannot be made.*Set `cache:`"):
        load_site(folder).load_task()


def test_a_user_without_home_is_told_to_name_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match="no home folder"):
        load_site(_hospital(tmp_path / "north")).scan()


def test_progress_names_its_stages(tmp_path: Path) -> None:
    told: list[str] = []
    site: Site = load_site(_hospital(tmp_path / "north"))
    watch: Callable[[str, int, int], None] = lambda stage, *_: told.append(stage)  # noqa: E731
    site.load_task(on_progress=watch)
    assert list(dict.fromkeys(told)) == ["headers", "pixels"]
