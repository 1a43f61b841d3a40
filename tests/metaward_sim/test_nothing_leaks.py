"""A name planted in a hospital's DICOM files comes out of no simulation and no evaluation."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from dicom_factory import uid_of, write_dicom
from tiny_run import Finished, everything_in, metaward, write_scenario

PLANTED = "PLANTED"
PATIENTS = 6


def write_hospital(folder: Path) -> list[str]:
    """Write a hospital full of the planted name, one file of it damaged; return its UIDs."""
    rows, uids = ["sop_instance_uid,label"], []
    for number in range(PATIENTS):
        name = f"{PLANTED}-{folder.name}-{number}"
        path = write_dicom(
            path=folder / "images" / PLANTED / name,
            patient_id=name,
            study=name,
            series=name,
            pixels=np.random.default_rng(number).integers(0, 4096, (16, 16)).astype(np.uint16),
            elements={
                "PatientName": f"{PLANTED}^{number}",
                "StudyDescription": PLANTED,
                "InstitutionName": PLANTED,
                "AccessionNumber": PLANTED,
            },
        )
        if number == 0:
            path.write_bytes(path.read_bytes()[:-200])
        rows.append(f"{uid_of(name)},{'ab'[number % 2]}")
        uids.append(uid_of(name))
    (folder / "labels.csv").write_text("\n".join([*rows, f"{PLANTED},a"]))
    settings = {
        "name": folder.name,
        "data": {"root": "images", "labels": "labels.csv"},
        "cache": "cache",
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    return uids


def assert_silent(what: Finished | dict[str, bytes], uids: list[str]) -> None:
    if isinstance(what, Finished):
        texts = {"stdout": what.out.encode(), "stderr": what.err.encode()}
    else:
        texts = what
    for name, content in texts.items():
        assert PLANTED not in name
        assert PLANTED.encode() not in content, name
        for uid in uids:
            assert uid.encode() not in content, name


@pytest.fixture
def hospitals(tmp_path: Path) -> tuple[Path, list[str]]:
    root = tmp_path / "hospitals"
    return root, [uid for name in ("north", "south", "west") for uid in write_hospital(root / name)]


def test_no_file_of_a_run_and_nothing_printed_holds_it(
    tmp_path: Path, hospitals: tuple[Path, list[str]]
) -> None:
    root, uids = hospitals
    run = tmp_path / "run"
    scenario = write_scenario(
        tmp_path / "tiny.yaml",
        rounds=2,
        learner={"name": "fomaml", "n_way": 2, "n_shot": 1, "n_query": 1, "episodes": 1},
        evaluation={"shots": [1], "n_query": 1, "episodes": 4},
    )
    done = metaward("simulate", scenario, "--data", root, "--held-out", "west", "--out", run)
    assert done.code == 0, done.err
    assert_silent(done, uids)
    files = everything_in(run)
    assert {"report.html", "flower.log", "sites/north.jsonl", "privacy.json"} <= set(files)
    assert_silent(files, uids)

    out = tmp_path / "report"
    options = ("--shots", "1", "--n-query", "1", "--episodes", "4", "--out", out)
    done = metaward("evaluate", run, "--site", root / "west", *options)
    assert done.code == 0, done.err
    assert_silent(done, uids)
    assert_silent(everything_in(out), uids)


def test_no_refusal_holds_it(tmp_path: Path, hospitals: tuple[Path, list[str]]) -> None:
    root, uids = hospitals
    with (root / "west/labels.csv").open("a") as table:
        table.write(f"\n{uids[-1]},a")  # a second label
    done = metaward("simulate", "--data", root, "--out", tmp_path / "run")
    assert done.code == 3
    assert "too few" in done.err
    assert_silent(done, uids)
