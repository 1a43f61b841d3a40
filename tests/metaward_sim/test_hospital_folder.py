"""What `write_hospital` promises: a readable hospital, whole or not at all."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from metaward.errors import ConfigError, DataError
from metaward_client.site import load_site
from metaward_sim.hospital_folder import HospitalSummary, is_hospital, write_hospital
from metaward_sim.image_record import ImageRecord
from metaward_sim.scanner_style import Nesting, ScannerStyle
from metaward_sim.staged_folders import staged_folders

STYLE = ScannerStyle("CR", manufacturer="Synthetic Alpha")


def records(n: int, size: int = 16) -> Iterator[ImageRecord]:
    rng = np.random.default_rng(3)
    for index in range(n):
        pixels = rng.integers(0, 256, (size, size)).astype(np.uint8)
        yield ImageRecord(pixels, patient=f"p{index // 2}", label=("cyst", "mass")[index % 2])


def write(out: Path, n: int = 6, *, force: bool = False, name: str = "north") -> HospitalSummary:
    return write_hospital(
        out, name=name, records=records(n), style=STYLE, notice="Drawn.", force=force
    )


def digest(folder: Path) -> str:
    parts = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts.update(str(path.relative_to(folder)).encode())
        parts.update(path.read_bytes() if path.is_file() else b"")
    return parts.hexdigest()


def test_the_summary_counts_images_patients_and_labels(tmp_path: Path) -> None:
    summary = write(tmp_path, 6)
    assert summary.path == tmp_path / "north"
    assert (summary.n_images, summary.n_patients) == (6, 3)
    assert summary.labels == {"cyst": 3, "mass": 3}


def test_a_site_reads_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, 6)
    task = load_site(tmp_path / "north").load_task(image_size=16, channels=1)
    assert task.site == "north"
    assert (task.n_images, task.n_patients) == (6, 3)
    assert task.label_names == ("cyst", "mass")


def test_the_table_has_a_row_for_each_file(tmp_path: Path) -> None:
    write(tmp_path, 6)
    with (tmp_path / "north" / "labels.csv").open(newline="") as stream:
        rows = {row["sop_instance_uid"]: row["label"] for row in csv.DictReader(stream)}
    files = [path for path in (tmp_path / "north" / "images").rglob("*") if path.is_file()]
    assert {dcmread(path).SOPInstanceUID for path in files} == set(rows)
    assert sorted(rows.values()) == ["cyst"] * 3 + ["mass"] * 3


def test_a_site_reads_labels_with_commas_quotes_and_new_lines(tmp_path: Path) -> None:
    image = ImageRecord(np.zeros((4, 4), np.uint8), "p", 'mass, "large"\nleft')
    summary = write_hospital(tmp_path, name="north", records=[image], style=STYLE, notice="")
    task = load_site(tmp_path / "north").load_task(image_size=16, channels=1)
    assert (task.n_images, task.label_names) == (1, ('mass, "large" left',))
    assert summary.labels == {'mass, "large" left': 1}


@pytest.mark.parametrize("nesting", ["media", "uid", "hashed"])
def test_paths_hold_no_patient_id(tmp_path: Path, nesting: Nesting) -> None:
    style = ScannerStyle("CR", nesting=nesting)
    write_hospital(tmp_path, name="north", records=records(6), style=style, notice="")
    paths = [path for path in (tmp_path / "north" / "images").rglob("*") if path.is_file()]
    assert len(paths) == 6
    assert all(len(path.relative_to(tmp_path / "north" / "images").parts) == 3 for path in paths)
    parts = {part for path in paths for part in path.relative_to(tmp_path).parts}
    assert not parts & {"p0", "p1", "p2"}


def test_a_style_can_be_chosen_for_each_image(tmp_path: Path) -> None:
    colour = ImageRecord(np.zeros((4, 4, 3), np.uint8), "p", "cyst")
    grey = ImageRecord(np.zeros((4, 4), np.uint8), "p", "cyst")
    styles = {True: ScannerStyle("XC", photometric="RGB"), False: ScannerStyle("XC")}
    write_hospital(
        tmp_path,
        name="north",
        records=[colour, grey],
        style=lambda record: styles[record.is_colour],
        notice="",
    )
    files = [path for path in (tmp_path / "north" / "images").rglob("*") if path.is_file()]
    assert sorted(dcmread(path).SamplesPerPixel for path in files) == [1, 3]


def test_equal_input_gives_an_equal_folder(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_an_error_half_way_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[ImageRecord]:
        yield from records(3)
        raise DataError("image 3 is broken")

    with pytest.raises(DataError, match="image 3"):
        write_hospital(tmp_path, name="north", records=broken(), style=STYLE, notice="")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_half_way_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[ImageRecord]:
        yield from records(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hospital(tmp_path, name="north", records=interrupted(), style=STYLE, notice="")
    assert list(tmp_path.iterdir()) == []


def test_after_a_hard_kill_nothing_stands_under_the_final_name(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import itertools, sys
        from pathlib import Path
        import numpy as np
        from metaward_sim.hospital_folder import write_hospital
        from metaward_sim.image_record import ImageRecord
        from metaward_sim.scanner_style import ScannerStyle

        image = ImageRecord(np.zeros((4, 4), np.uint8), "p", "cyst")
        write_hospital(
            Path(sys.argv[1]), name="north", records=itertools.repeat(image),
            style=ScannerStyle("CR"), notice="", on_progress=lambda n: print("x", flush=True),
        )
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "x\n"
    assert list(tmp_path.glob(".metaward-*.partial")), "it is written beside its place"

    write(tmp_path, name="south")
    assert list(tmp_path.glob(".metaward-*.partial")), "a live writer is left alone"

    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait(timeout=20)
    time.sleep(0.05)
    assert not (tmp_path / "north").exists()
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north", "south"]


def test_a_new_parent_folder_appears_with_all_its_hospitals_in_one_step(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    names = ["north", "south"]
    with staged_folders(out, names, force=False, may_replace=is_hospital) as staged:
        for name in names:
            (staged.path(name) / "file").write_text(name)
        assert not out.exists()
    assert sorted(path.name for path in out.iterdir()) == names
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert out.stat().st_mode == out.parent.stat().st_mode


def test_a_hospital_that_is_there_is_kept(tmp_path: Path) -> None:
    write(tmp_path, 6)
    before = digest(tmp_path)
    with pytest.raises(ConfigError, match=r"'north' is already there.*--force"):
        write(tmp_path, 2)
    assert digest(tmp_path) == before


def test_force_replaces_a_hospital(tmp_path: Path) -> None:
    write(tmp_path, 6)
    assert write(tmp_path, 2, force=True).n_images == 2
    files = [path for path in (tmp_path / "north" / "images").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["north"]


def test_force_never_removes_a_folder_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    (tmp_path / "north" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not written by this command"):
        write(tmp_path, force=True)
    assert (tmp_path / "north" / "thesis.txt").read_text() == "years of work"


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to"):
        write(tmp_path / "out")


@pytest.mark.parametrize("name", ["", "North", "a/b", "..", "-a", "x" * 64, "a b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="as the name of a hospital"):
        write(tmp_path, name=name)


@pytest.mark.parametrize("name", ["1", "no", "null", "1e3"])
def test_a_name_that_yaml_would_read_as_something_else_survives(tmp_path: Path, name: str) -> None:
    write(tmp_path, 2, name=name)
    assert load_site(tmp_path / name).load_task(image_size=16, channels=1).site == name


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    write(tmp_path, 2, name="warm-up")
    for n in (20, 200):
        tracemalloc.start()
        write_hospital(tmp_path, name=f"h{n}", records=records(n, size=128), style=STYLE, notice="")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    grown = peaks[1] - peaks[0]
    assert grown < 180 * 1024, "less than 1 KiB per image of 16 KiB"


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen: list[int] = []
    write_hospital(
        tmp_path, name="north", records=records(5), style=STYLE, notice="", on_progress=seen.append
    )
    assert sum(seen) == 5
