"""Real collections, where METAWARD_DATA names them, are imported as they are described."""

import os
from pathlib import Path

import numpy as np
import pytest

from metaward_sim.importers.selection import slug
from tiny_collections import datasets, import_to, task_of

DATA = os.environ.get("METAWARD_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="METAWARD_DATA is not set")


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
