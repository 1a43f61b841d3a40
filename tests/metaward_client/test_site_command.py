import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from dicom_factory import uid_of, write_dicom
from metaward import cli
from metaward.episodes import usable_labels
from metaward_client.scan_report import SHOTS, count_labels, scan_as_json
from metaward_client.site import load_site


@pytest.fixture(autouse=True)
def _only_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("site", "metaward_client.site_command:register", "metaward.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def north(tmp_path: Path) -> Path:
    """Three patients with finding a, one with b; an image without label; a text file."""
    rows = ["sop_instance_uid,label"]
    for i, (patient, label) in enumerate([("p1", "a"), ("p2", "a"), ("p3", "a"), ("p4", "b")]):
        write_dicom(path=tmp_path / "north" / f"{i}", patient_id=patient, modality="CT")
        rows.append(f"{uid_of(str(i))},{label}")
    write_dicom(path=tmp_path / "north" / "unlabelled")
    (tmp_path / "north" / "notes.txt").write_text("x")
    (tmp_path / "north" / "labels.csv").write_text("\n".join([*rows, "1.2.3,a"]))
    return tmp_path / "north"


def test_scan_says_what_is_usable_and_why_not(
    north: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "scan", str(north)]) == 0
    out = capsys.readouterr().out
    assert "6 files, 4 usable images of 4 patients" in out
    assert "no_label" in out
    assert "The content is not DICOM." in out
    assert "5 rows; 4 images with a label, 1 without; 1 row without image" in out
    assert "1-shot: 1" in out


def test_a_scan_speaks_of_an_earlier_one_where_there_was_one(
    north: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "scan", str(north)]) == 0
    first = capsys.readouterr().out
    assert "6 headers read now; 4 images decoded now" in first
    (north / "notes.txt").write_text("changed")
    assert cli.run(["site", "scan", str(north)]) == 0
    second = capsys.readouterr().out
    assert "1 header read now, 5 known from an earlier scan; 0 images decoded now" in second


def test_one_of_a_kind_is_counted_in_the_singular(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dicom(path=tmp_path / "north" / "a" / "1")
    assert cli.run(["site", "scan", str(tmp_path / "north")]) == 0
    shown = capsys.readouterr().out
    assert "1 file, 1 usable image of 1 patient\n" in shown
    assert "1 header read now; 1 image decoded now\n" in shown
    assert "Labels are folder names: 1 image in a folder, 0 in none\n" in shown


def test_json_is_one_object_and_nothing_else(
    north: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "scan", str(north), "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""
    assert report["files"] == 6
    assert report["usable_images"] == 4
    assert report["labels"] == [
        {"label": "a", "images": 3, "patients": 3, "shots": [1]},
        {"label": "b", "images": 1, "patients": 1, "shots": []},
    ]
    assert report["modalities"] == {"CT": 4}
    assert report["transfer_syntaxes"] == {"Explicit VR Little Endian": 4}
    assert {r["reason"]: r["files"] for r in report["refused"]} == {"no_label": 1, "not_dicom": 1}
    assert report["join"]["rows_without_image"] == 1
    assert report["pixels_read"] == 4


def test_without_decoding_no_pixels_are_read(
    north: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "scan", str(north), "--json", "--no-decode"]) == 0
    assert json.loads(capsys.readouterr().out)["pixels_read"] is None


def test_rows_that_are_wrong_are_counted_and_named_and_the_rest_is_used(
    north: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (north / "labels.csv").open("ab") as table:
        table.write(f"\n{uid_of('0')},b\n".encode() + b"1.9,\xfc\n")
    assert cli.run(["site", "scan", str(north), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["usable_images"] == 3
    assert said["join"]["contradictions"] == [{"rows": [2, 7], "labels": ["a", "b"], "images": 1}]
    assert said["join"]["unreadable_rows"] == [8]
    refused = {r["reason"]: r for r in said["refused"]}
    assert refused["ambiguous_label"]["files"] == 1
    assert "scan names the rows" in refused["ambiguous_label"]["next_step"]
    assert cli.run(["site", "scan", str(north)]) == 0
    shown = capsys.readouterr().out
    assert "ambiguous_label" in shown
    assert "two labels for 1 image, rows 2, 7: 'a' and 'b'" in shown
    assert "not read: 1 row " in shown
    assert "in the row): row 8" in shown


def test_patient_ids_with_and_without_an_issuer_are_warned_of_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = str(tmp_path / "north")
    write_dicom(path=tmp_path / "north" / "a" / "1", patient_id="MRN1", issuer="HOSP")
    assert cli.run(["site", "scan", site]) == 0
    assert "issuer" not in capsys.readouterr().out
    write_dicom(path=tmp_path / "north" / "a" / "2", patient_id="MRN1")
    assert cli.run(["site", "scan", site]) == 0
    shown = capsys.readouterr().out
    assert "with and without an issuer: 1; each counts as two patients" in shown
    assert cli.run(["site", "scan", site, "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said)["join"]["ids_with_and_without_issuer"] == 1
    assert "MRN1" not in shown + said


def test_of_many_wrong_rows_the_first_are_named_and_the_others_counted(
    north: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (north / "labels.csv").open("ab") as table:
        table.write(b"\n" + b"1.9,\xfc\n" * 11)
        for i in range(6):
            write_dicom(path=north / f"more{i}")
            table.write(f"{uid_of(f'more{i}')},a\n{uid_of(f'more{i}')},b\n".encode())
    assert cli.run(["site", "scan", str(north)]) == 0
    shown = capsys.readouterr().out
    assert "rows 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, …" in shown
    assert shown.count("two labels") == 5
    assert "and 1 more contradiction\n" in shown


def test_zero_usable_images_end_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.run(["site", "scan", str(tmp_path / "empty")]) == 3
    assert "no usable image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        ((), "Put the images there"),
        (("notes.txt",), "Do what the report says"),
        (("image",), "one folder per label"),
        (("image", "labels.csv"), "keys of the label table"),
    ],
    ids=["empty", "no image", "no folder", "other keys"],
)
def test_a_scan_without_a_usable_image_does_not_send_its_reader_to_a_scan(
    tmp_path: Path, files: tuple[str, ...], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("north").mkdir()
    for name in files:
        (tmp_path / "north" / name).write_text("sop_instance_uid,label\n1.2.3,a\n")
    if "image" in files:
        write_dicom(path=tmp_path / "north" / "image")
    assert cli.run(["site", "scan", str(tmp_path / "north")]) == 3
    said = capsys.readouterr().err
    assert advice in said
    assert "site scan" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: n\ndata: {root: gone}\n", "no folder of that name"),
        ("name: n\ndata: {root: ., labels: gone.csv}\n", "no such file"),
        ("name: n\ndata: {root: ., labels: labels.csv, label: lable}\n", "column 2, 'label'?"),
        ("name: n\ndate: {root: .}\n", "did you mean 'data'"),
    ],
)
def test_a_wrong_setting_ends_with_2(
    north: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (north / "site.yaml").write_text(text)
    assert cli.run(["site", "scan", str(north / "site.yaml")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["site", "scan", "--help"]) == 0
    assert "metaward site scan /data/north/site.yaml" in capsys.readouterr().out


def test_label_names_with_markup_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dicom(path=tmp_path / "north" / "[red]x[" / "a")
    assert cli.run(["site", "scan", str(tmp_path / "north")]) == 0
    assert "[red]x[" in capsys.readouterr().out


SCAN = """
import sys
from metaward.cli import main
sys.argv[1:1] = ["site", "scan"]
main()
"""


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1:strict", "ascii:strict"])
@pytest.mark.parametrize("more", [(), ("--json",)], ids=["tables", "json"])
def test_a_scan_ends_well_whatever_names_have_and_the_terminal_lacks(
    tmp_path: Path, encoding: str, more: tuple[str, ...]
) -> None:
    for number, folder in enumerate((os.fsdecode(b"b\xe4d"), "ж")):
        for patient in ("p1", "p2"):
            instance = f"{number} {patient}"
            path = tmp_path / "north" / folder / patient
            write_dicom(path=path, patient_id=patient, instance=instance)
    scanned = subprocess.run(
        [sys.executable, "-c", SCAN, str(tmp_path / "north"), "--no-decode", *more],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (scanned.returncode, scanned.stderr) == (0, b"")
    if more:
        labels = {label["label"] for label in json.loads(scanned.stdout)["labels"]}
        assert labels == {r"b\xe4d", "ж"}
    else:
        assert rb"b\xe4d" in scanned.stdout
        assert (b" yes " in scanned.stdout) is not encoding.startswith("utf")


def test_labels_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("\x1b[31mred", "\x9bplain"):
        write_dicom(path=tmp_path / "north" / folder / "a", instance="the same")
        write_dicom(path=tmp_path / "north" / folder / f"b{len(folder)}")
    assert cli.run(["site", "scan", str(tmp_path / "north")]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert shown.count(r"\x1b[31mred") == shown.count(r"\x9bplain") == 2
    assert cli.run(["site", "scan", str(tmp_path / "north"), "--json"]) == 0
    assert capsys.readouterr().out.isascii()


def test_reasons_and_labels_are_whole_on_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    label = "-".join(["pneumonia"] * 9)
    write_dicom(path=tmp_path / "north" / label / "a")
    path = write_dicom(path=tmp_path / "north" / label / "b", transfer_syntax="jpeg_ls")
    jpeg_ls, without_decoder = b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.66"
    path.write_bytes(path.read_bytes().replace(jpeg_ls, without_decoder))
    assert cli.run(["site", "scan", str(tmp_path / "north")]) == 0
    shown = capsys.readouterr().out
    assert "unsupported_transfer_syntax" in shown
    assert "…" not in shown
    first_cells = [line.split("│")[1].strip() for line in shown.splitlines() if "│" in line]
    assert label in "".join(first_cells)


def test_few_shot_support_is_what_episodes_can_be_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for i in range(60):
        label, patient = int(rng.integers(6)), int(rng.geometric(0.2))
        write_dicom(path=tmp_path / "north" / f"l{label}" / f"{i}", patient_id=f"{patient}")
    site = load_site(tmp_path / "north")
    task = site.load_task(image_size=8)
    labels = count_labels(site.scan())
    for shots in (*SHOTS, 2, 3, 8):
        supported = [i for i, label in enumerate(labels) if label.supports(shots)]
        assert supported == usable_labels(task, n_shot=shots, n_query=1).tolist()


def test_the_report_of_a_scan_without_images_is_complete(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = scan_as_json(load_site(tmp_path / "empty").scan())
    assert report["labels"] == []
    assert report["patients"] == 0
