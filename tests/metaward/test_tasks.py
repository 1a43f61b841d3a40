"""What a task promises about images, labels and patients."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaward.errors import DataError
from metaward.tasks import STANDARDISE_FLOOR, Task, standardise


def task(images: NDArray[np.floating] | None = None) -> Task:
    """Two patients with one label, one of them also with the other; no image of the third."""
    given = np.linspace(0, 1, 5 * 16, dtype=np.float16).reshape(5, 1, 4, 4)
    return Task(
        site="north",
        images=given if images is None else images,
        labels=np.array([0, 0, 1, 0, 1]),
        patients=np.array([7, 9, 7, 7, 7]),
        label_names=("cyst", "scar", "rare"),
    )


def test_images_are_found_by_label_and_patient() -> None:
    table = {
        label: {patient: rows.tolist() for patient, rows in patients.items()}
        for label, patients in task().images_of.items()
    }
    assert table == {0: {7: [0, 3], 9: [1]}, 1: {7: [2, 4]}, 2: {}}


def test_images_and_patients_are_counted() -> None:
    assert (task().n_images, task().n_patients) == (5, 2)


def test_labels_and_patients_of_any_whole_type_are_numbers_of_the_task() -> None:
    given = task()
    listed = replace(
        given,
        labels=np.array([0, 0, 1, 0, 1], dtype=np.uint8),  # type: ignore[arg-type] # as callers do
        patients=[7, 9, 7, 7, 7],  # type: ignore[arg-type] # as callers do
    )
    assert listed.labels.dtype == listed.patients.dtype == np.int64
    assert listed.labels.tolist() == given.labels.tolist()
    assert listed.labels_at(np.array([2, 0])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"images": np.zeros((5, 4, 4))}, r"images of shape \(5, 4, 4\).*images\[:, None\]"),
        ({"images": np.zeros((5, 4, 4, 3))}, r"shape \(5, 4, 4, 3\).*channels before height"),
        ({"labels": np.array([0, 1])}, r"labels of shape \(2,\) for 5 images"),
        ({"labels": np.zeros((5, 1), int)}, r"labels of shape \(5, 1\) for 5 images"),
        ({"labels": np.array(list("aabab"))}, r"labels of type <U1.*labels = np.unique\(labels,"),
        ({"labels": np.array([0, 0, 1.5, 0, 1])}, "labels of type float64.*whole numbers"),
        ({"patients": np.array(list("pqppp"))}, "patients of type <U1.*patients = np.unique"),
        ({"labels": np.array([1, 1, 2, 1, 3])}, "labels from 1 to 3, and 3 label names.*from 0"),
        ({"labels": np.array([0, 0, -1, 0, 1])}, "labels from -1 to 1"),
    ],
)
def test_arrays_that_make_no_task_are_told_what_to_change(
    changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=f"site north: .*{sentence}"):
        replace(task(), **changed)


def test_taken_images_are_standardised_float32_in_the_order_asked_for() -> None:
    taken = task().take(np.array([3, 0]))
    assert taken.dtype == torch.float32
    assert taken.shape == (2, 1, 4, 4)
    expected = torch.from_numpy(task().images[[3, 0]].astype(np.float32))
    torch.testing.assert_close(taken, standardise(expected))


def test_a_device_is_sent_all_images_once_in_the_bits_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.random.default_rng(0).random((5, 1, 4, 4), np.float32)
    here, sent = task(images), replace(task(images), device=torch.device("meta"))
    monkeypatch.setattr("metaward.tasks.UPLOADED_AT_ONCE", 2)
    parts: list[torch.Tensor] = []

    def seen(batch: torch.Tensor) -> torch.Tensor:
        parts.append(standardise(batch))
        return parts[-1]

    monkeypatch.setattr("metaward.tasks.standardise", seen)
    for rows in ([3, 0], [4]):
        assert sent.take(np.array(rows)).shape == (len(rows), 1, 4, 4)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat(parts), here.take(np.arange(5)))


def test_a_memory_mapped_task_is_read_and_never_written(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", task().images)
    before = (tmp_path / "images.npy").read_bytes()
    mapped = task(np.load(tmp_path / "images.npy", mmap_mode="r"))
    taken = mapped.take(np.array([0, 1]))
    torch.testing.assert_close(taken, task().take(np.array([0, 1])))
    taken.zero_()
    assert (tmp_path / "images.npy").read_bytes() == before


def test_each_image_gets_mean_0_and_deviation_1_over_its_own_pixels() -> None:
    images = (
        torch.rand(3, 2, 4, 4, dtype=torch.float64)
        * torch.tensor([1.0, 5.0, 0.1])[:, None, None, None]
    )
    done = standardise(images)
    torch.testing.assert_close(done.mean(dim=(1, 2, 3)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(
        done.std(dim=(1, 2, 3), correction=0), torch.ones(3, dtype=torch.float64)
    )


def test_an_image_is_standardised_without_the_others() -> None:
    images = torch.rand(3, 1, 4, 4)
    alone = torch.cat([standardise(image[None]) for image in images])
    assert torch.equal(standardise(images), alone)


def test_an_empty_image_becomes_zeros_and_faint_noise_stays_faint() -> None:
    assert torch.equal(standardise(torch.full((1, 1, 4, 4), 0.5)), torch.zeros(1, 1, 4, 4))
    faint = torch.tensor([0.0, 1.0]).repeat(8).view(1, 1, 4, 4) * STANDARDISE_FLOOR / 100
    assert float(standardise(faint).abs().max()) == pytest.approx(0.005)


@given(gain=st.floats(0.5, 50), offset=st.floats(-5, 5))
def test_brightness_and_contrast_of_a_scanner_make_no_difference(
    gain: float, offset: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 1, 4, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(standardise(gain * image + offset), standardise(image))
