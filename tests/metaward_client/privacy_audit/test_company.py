"""The audit's question of company: who moves another is seen, and what proves nothing fails."""

import numpy as np
import pytest
import torch

from company_cases import LARGE, all_in_one_call, large_image_that_ties, threads_of_a_site
from metaward.arrays import Tensors
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.tasks import Task
from metaward_client.privacy_audit.company import company_finding, most_moved, product_vectors
from metaward_client.privacy_audit.findings import Verdict


def test_the_audit_sees_a_patient_who_moves_another() -> None:
    def with_the_others(task: Task) -> Tensors:
        images = task.take(np.arange(task.n_images))
        return {"x": images.flatten(1) + 1e-6 * float(task.images.sum())}

    worst = most_moved(with_the_others, (1, 4, 4), np.random.default_rng(0))
    assert 0 < worst < 1e-3
    assert company_finding({"x": worst}).verdict is Verdict.FAIL
    assert company_finding({"x": 0.0}).verdict is Verdict.PASS
    assert company_finding({"x": 0.0, "y": worst, "z": 0.0}).verdict is Verdict.FAIL


def test_the_audit_sees_an_image_whose_place_decides() -> None:
    def by_place(task: Task) -> Tensors:
        n = task.n_images
        return {"x": torch.ones(n, 3) + 1e-6 * (torch.arange(n) == 32)[:, None]}

    worst = most_moved(by_place, (1, 4, 4), np.random.default_rng(0))
    assert company_finding({"x": worst}).verdict is Verdict.FAIL


def test_vectors_that_are_not_finite_in_some_company_are_no_evidence() -> None:
    def broken_in_some(task: Task) -> Tensors:
        n = task.n_images
        return {"x": torch.full((n, 3), float("nan") if n in (5, 31) else 1.0)}

    worst = most_moved(broken_in_some, (1, 4, 4), np.random.default_rng(0))
    assert company_finding({"x": worst}).verdict is Verdict.FAIL


def test_a_patient_who_adds_nothing_hides_nobody_who_is_moved() -> None:
    def first_adds_nothing(task: Task) -> Tensors:
        rows = torch.ones(task.n_images, 3) + 1e-6 * task.n_images
        rows[0] = 0
        return {"x": rows}

    def nobody_adds_anything(task: Task) -> Tensors:
        return {"x": torch.zeros(task.n_images, 3)}

    rng = np.random.default_rng(0)
    worst = {"x": most_moved(first_adds_nothing, (1, 4, 4), rng)}
    assert company_finding(worst).verdict is Verdict.FAIL
    assert most_moved(nobody_adds_anything, (1, 4, 4), rng) == 0


@threads_of_a_site(2)
def test_the_audit_sees_large_images_that_are_prepared_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large_image_that_ties()
    prepared = product_vectors(build_body(ModelSettings(), 0))["images"]
    image = (1, LARGE, LARGE)
    assert most_moved(prepared, image, np.random.default_rng(0)) == 0
    monkeypatch.setattr("metaward.tasks.standardise", all_in_one_call)
    assert most_moved(prepared, image, np.random.default_rng(0)) > 0
