"""Which hospitals a run has, and what is refused before it starts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from dicom_factory import write_dicom
from few_open_files import DESCRIPTORS, at_most_open, limit_that_leaves
from metaward.errors import ConfigError, DataError
from metaward.learner_settings import FedAvgSettings, PrototypicalSettings
from metaward.model_settings import ModelSettings
from metaward.study import Study
from metaward.tasks import Task
from metaward_client.site import load_site
from metaward_sim.hospitals_of_run import (
    HOSPITALS_FOLDER,
    draw_hospitals,
    find_hospitals,
    read_tasks,
    refuse_shared_patients,
    refuse_unfit_sites,
)
from metaward_sim.scenario import HospitalChoice
from tiny_run import everything_in


def write_site(root: Path, name: str, patients: Sequence[str], *, issuer: str = "") -> Path:
    """Write a hospital with one image per patient, labels by folder."""
    folder = root / name
    for number, patient in enumerate(patients):
        path = folder / "images" / ("cyst", "scar")[number % 2] / f"{name}-{number}"
        write_dicom(path=path, patient_id=patient, issuer=issuer or None)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    settings = {
        "name": name,
        "data": {"root": "images"},
        "cache": "cache",
        "synthetic": name != "real",
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("west", "north", "south", "real"):
        write_site(tmp_path / "all", name, ["a", "b"])
    return tmp_path / "all"


def test_a_number_holds_out_the_last_by_name(root: Path) -> None:
    hospitals = find_hospitals(HospitalChoice(root=root, held_out=2), root)
    assert list(hospitals.training) == ["north", "real"]
    assert list(hospitals.held_out) == ["south", "west"]
    assert list(hospitals.everyone) == ["north", "real", "south", "west"]


def test_names_hold_out_those(root: Path) -> None:
    hospitals = find_hospitals(HospitalChoice(root=root, held_out=("real", "north")), root)
    assert list(hospitals.training) == ["south", "west"]
    assert list(hospitals.held_out) == ["real", "north"]


def test_a_name_given_twice_is_held_out_once(root: Path) -> None:
    hospitals = find_hospitals(HospitalChoice(root=root, held_out=("real", "real")), root)
    assert list(hospitals.held_out) == ["real"]


def test_hidden_folders_and_files_are_no_hospitals(root: Path) -> None:
    (root / ".git").mkdir()
    (root / "notes.txt").write_text("x")
    hospitals = find_hospitals(HospitalChoice(root=root, held_out=1), root)
    assert len(hospitals.everyone) == 4


def test_a_run_is_synthetic_where_a_hospital_that_is_measured_is(root: Path) -> None:
    def synthetic(*held_out: str) -> bool:
        return find_hospitals(HospitalChoice(root=root, held_out=held_out), root).synthetic

    assert synthetic("west")
    assert synthetic("real", "west")
    assert not synthetic("real")


def test_an_unknown_name_is_refused_with_the_nearest(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"called wset \(did you mean west\?\)") as caught:
        find_hospitals(HospitalChoice(root=root, held_out=("wset",)), root)
    assert "north, real, south, west" in caught.value.expected


def test_hospitals_are_drawn_once(tmp_path: Path) -> None:
    choice = HospitalChoice(synthetic=1, held_out=1, patients=4)
    draw_hospitals(choice, tmp_path, seed=1, workers=1)
    assert len(list((tmp_path / HOSPITALS_FOLDER).glob("*/site.yaml"))) == 2
    before = everything_in(tmp_path)
    draw_hospitals(choice, tmp_path, seed=2, workers=1)  # a resumed run: they stand there
    assert everything_in(tmp_path) == before


def test_hospitals_of_a_folder_are_not_drawn(root: Path, tmp_path: Path) -> None:
    draw_hospitals(HospitalChoice(root=root), tmp_path / "run", seed=1, workers=1)
    assert not (tmp_path / "run").exists()


def test_names_cannot_be_held_out_of_hospitals_that_are_yet_to_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names of held-out hospitals"):
        draw_hospitals(HospitalChoice(held_out=("alder",)), tmp_path, seed=1, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_shared_patient_is_refused_with_the_number_and_both_names(tmp_path: Path) -> None:
    sites = [
        load_site(write_site(tmp_path, "north", ["p1", "p2", "p3"])),
        load_site(write_site(tmp_path, "south", ["p4"])),
        load_site(write_site(tmp_path, "west", ["p5", "p3", "P2 "])),
    ]
    refuse_shared_patients(sites[:2])
    with pytest.raises(DataError, match="2 patient IDs are in both") as caught:
        refuse_shared_patients(sites)
    assert caught.value.where == "north and west"
    assert "p2" not in str(caught.value)
    assert "0010,0021" in caught.value.next_step


def test_equal_numbers_of_two_issuers_are_two_patients(tmp_path: Path) -> None:
    sites = [
        load_site(write_site(tmp_path, name, ["1", "2"], issuer=name)) for name in ("north", "west")
    ]
    refuse_shared_patients(sites)


def test_tasks_are_read_in_the_size_that_the_study_wants(root: Path) -> None:
    seen: list[int] = []
    sites = [load_site(root / "north"), load_site(root / "west")]
    tasks = read_tasks(sites, image_size=24, channels=3, workers=1, on_site=seen.append)
    assert {name: task.images.shape for name, task in tasks.items()} == {
        "north": (2, 3, 24, 24),
        "west": (2, 3, 24, 24),
    }
    assert seen == [1, 2]


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="no /proc to see what is open")
def test_hospitals_are_read_that_are_more_than_the_files_a_shell_lets_us_open(
    tmp_path: Path,
) -> None:
    sites = [load_site(write_site(tmp_path, f"site-{i}", ["a"])) for i in range(40)]
    with at_most_open(limit_that_leaves(30)):
        tasks = read_tasks(sites, image_size=24, channels=1, workers=1, on_site=lambda _: None)
    assert len(tasks) == 40


def task(site: str, patients_of: Sequence[int]) -> Task:
    labels = np.repeat(np.arange(len(patients_of)), patients_of)
    images = np.zeros((len(labels), 1, 16, 16), dtype=np.float32)
    return Task(site, images, labels, np.arange(len(labels)), tuple("abc"[: len(patients_of)]))


def test_an_unfit_hospital_is_named_with_its_small_labels_before_training() -> None:
    learner = PrototypicalSettings(n_way=2, n_shot=2, n_query=1)
    study = Study(model=ModelSettings(filters=8, groups=2), learner=learner)
    refuse_unfit_sites(study, [task("north", [3, 3])])
    with pytest.raises(DataError, match="b: 2 images of 2 patients") as caught:
        refuse_unfit_sites(study, [task("north", [3, 3]), task("west", [9, 2])])
    assert caught.value.where == "site west"
    fedavg = study.model_copy(update={"learner": FedAvgSettings()})
    refuse_unfit_sites(fedavg, [task("west", [9, 2])])
    with pytest.raises(DataError, match="site west"):
        refuse_unfit_sites(fedavg, [task("west", [9])])
