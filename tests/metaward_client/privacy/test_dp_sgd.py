"""What a patient adds to a noised gradient: one clipped vector, a function of nobody else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dp_sgd_cases import AT, HEAD, by_hand, flat, sample, site, summed
from metaward.errors import PrivacyError
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.models.build import build_body
from metaward.tasks import Task
from metaward_client.privacy.clip_norm import ROUNDING_MARGIN
from metaward_client.privacy.dp_sgd import clipped_sum
from private_site import BODY, STUDY, KnownSource, one_patient_more, task_of, twelve_patients


def test_a_patient_counts_once_however_many_images_there_are() -> None:
    task = task_of({"one": [0], "four": [0, 1, 0, 1]})
    expected = by_hand(task, [0]) + by_hand(task, [1, 2, 3, 4])
    np.testing.assert_allclose(flat(summed(site(task))), expected, rtol=3e-4, atol=1e-6)


def test_each_patients_vector_is_clipped_over_all_arrays_of_the_body_together() -> None:
    task = task_of({"one": [0], "two": [1]})
    parts = [by_hand(task, [0]), by_hand(task, [1])]
    norm = 0.5 * min(np.linalg.norm(part) for part in parts)
    expected = sum(part * norm / np.linalg.norm(part) for part in parts)
    np.testing.assert_allclose(flat(summed(site(task, norm=norm))), expected, rtol=3e-4, atol=1e-7)
    alone = np.linalg.norm(flat(summed(site(task, norm=norm), drawn=[0])))
    assert alone == pytest.approx(norm, rel=2e-4)
    assert alone <= norm


def test_one_step_without_noise_equals_that_of_opacus() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body: Body = build_body(STUDY.model, STUDY.seed)
            self.head = torch.nn.Linear(BODY.features, 2)
            with torch.no_grad():
                self.head.weight.copy_(HEAD.weight)
                self.head.bias.copy_(HEAD.bias)
            self.head.requires_grad_(requires_grad=False)
            for part in self.body.modules():
                if isinstance(part, torch.nn.Conv2d):  # Opacus 1.6 is wrong for channels_last
                    part.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.body(images))
            return logits

    task = task_of({f"p{i}": [i % 2] for i in range(6)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GradSampleModule(Whole(), loss_reduction="sum")
        images, labels = task.take(np.arange(6)), torch.from_numpy(task.labels)
        F.cross_entropy(model(images), labels, reduction="sum").backward()
    each = torch.cat(
        [p.grad_sample.flatten(1) for p in model.parameters() if p.requires_grad], dim=1
    )  # type: ignore[arg-type]
    norm = float(each.norm(dim=1).median())
    clipped = (each * (norm / each.norm(dim=1, keepdim=True)).clamp(max=1)).sum(dim=0)
    ours = flat(summed(site(task, norm=norm)))
    np.testing.assert_allclose(ours, clipped.detach().numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("augment", ["none", "dihedral"])
@pytest.mark.parametrize("newcomer", ["first", "last"])
def test_a_patient_more_leaves_what_others_add_as_it_was_within_the_margin(
    augment: str, newcomer: str
) -> None:
    old = {"p": [0, 0, 0, 1, 1], "q": [1, 0, 1], "r": [0] * 7}
    new = {"x": [0, 1] * 5}
    first = newcomer == "first"
    before = site(task_of(old), norm=0.5, m=2, augment=augment)
    mixed = task_of(new | old if first else old | new)
    after = site(mixed, norm=0.5, m=2, augment=augment)
    seeds = np.array([0.2, 0.4, 0.6])
    seeds_after = np.array([0.9, *seeds] if first else [*seeds, 0.9])
    numbers = np.array([1, 2, 3] if first else [0, 1, 2])
    x = 0 if first else 3

    total = clipped_sum(before, AT, sample(before, np.array([0, 1, 2]), seeds), (0, 1))
    others = clipped_sum(after, AT, sample(after, numbers, seeds_after), (0, 1))
    np.testing.assert_allclose(flat(others), flat(total), rtol=0, atol=1e-6)
    everybody = clipped_sum(after, AT, sample(after, np.arange(4), seeds_after), (0, 1))
    alone = clipped_sum(after, AT, sample(after, np.array([x]), seeds_after), (0, 1))
    moved = flat(everybody) - flat(total)
    np.testing.assert_allclose(moved, flat(alone), rtol=0, atol=1e-6)
    norm = before.sums.max_grad_norm
    assert np.linalg.norm(moved - flat(alone)) < 0.1 * (1 - ROUNDING_MARGIN) * norm
    assert np.linalg.norm(moved) <= norm


@settings(max_examples=25, deadline=None)
@given(one_patient_more(), st.floats(1e-3, 1e3))
def test_no_patient_moves_the_sum_by_more_than_the_norm(
    tasks: tuple[Task, Task], norm: float
) -> None:
    before, after = (site(task, norm=norm) for task in tasks)
    moved = flat(summed(after)) - flat(summed(before))
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved) <= norm * (1 + 1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_no_image_makes_its_patient_add_zero(value: float) -> None:
    task = task_of({"p": [0], "bad": [1], "q": [1]})
    images = task.images.copy()
    images[1, 0, 3, 3] = value
    broken = summed(site(replace(task, images=images)))
    others = flat(summed(site(task), drawn=[0, 2]))
    np.testing.assert_allclose(flat(broken), others, rtol=0, atol=1e-6)


def test_parameters_that_are_not_finite_make_everybody_add_zero() -> None:
    wild = {name: torch.full_like(leaf, torch.inf) for name, leaf in AT.body.items()}
    at = site(twelve_patients())
    total = clipped_sum(
        at, Parameters(wild, HEAD), sample(at, np.arange(12), np.full(12, 0.5)), (0, 1)
    )
    assert not flat(total).any()


@pytest.mark.parametrize("norm", [1e6, 0.5])
def test_a_patients_clipped_vector_is_weighed_by_the_label(norm: float) -> None:
    at = site(task_of({"p": [0, 0], "q": [1]}), norm=norm)
    p, q = (flat(summed(at, drawn=[number])) for number in (0, 1))
    found = flat(summed(at, weights=[0.25, 0.75]))
    np.testing.assert_allclose(found, 0.25 * p + 0.75 * q, rtol=0, atol=1e-6)


def test_a_patient_of_several_labels_has_the_mean_weight_of_the_images_that_are_used() -> None:
    # images a, a, b weigh (0.2 + 0.2 + 0.8) / 3 = 0.4
    task = task_of({"before": [1, 1], "p": [0, 0, 1], "after": [0]})
    at = site(task)
    alone = flat(summed(at, drawn=[1]))
    found = flat(summed(at, drawn=[1], weights=[0.2, 0.8]))
    np.testing.assert_allclose(found, 0.4 * alone, rtol=1e-6, atol=1e-9)
    parts = [flat(summed(at, drawn=[number])) for number in range(3)]
    everybody = flat(summed(at, weights=[0.2, 0.8]))
    expected = 0.8 * parts[0] + 0.4 * parts[1] + 0.2 * parts[2]
    np.testing.assert_allclose(everybody, expected, rtol=0, atol=1e-6)


def test_weights_stand_for_the_classes_in_their_order() -> None:
    at = site(task_of({"p": [0], "q": [1]}))
    found = flat(summed(at, drawn=[0], classes=(1, 0), weights=[0.0, 0.5]))
    expected = 0.5 * flat(summed(at, drawn=[0], classes=(1, 0)))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert expected.any()


@pytest.mark.parametrize("weights", [[1.0, 1.5], [-0.1, 1.0], [torch.nan, 1.0], [1.0], [1.0] * 3])
@pytest.mark.parametrize("drawn", [[], [0]])
def test_weights_that_could_exceed_the_norm_are_refused_whoever_is_drawn(
    weights: list[float], drawn: list[int]
) -> None:
    """Also where nobody of that label is there: a refusal must not tell who is."""
    at = site(task_of({"p": [0], "q": [1]}))
    with pytest.raises(PrivacyError, match=r"weights.*expected 2 numbers from 0 to 1"):
        summed(at, drawn=drawn, weights=weights)
    with pytest.raises(PrivacyError, match="weights"):
        at.gradient(AT, (0, 1), torch.tensor(weights))
    assert at.sums.released == 0


@pytest.mark.parametrize("norm", [1e6, 1e-3])
def test_the_head_is_held_still_and_has_no_part_in_the_clip(norm: float) -> None:
    """One patient of label b: the body's own gradient, of the full length C where it is clipped."""
    task = task_of({"p": [1, 1]})
    body = by_hand(task, [0, 1])
    at = site(task, norm=norm)
    answer = at.gradient(AT, (0, 1), torch.tensor([1.0, 0.5]))
    assert answer.keys() == AT.body.keys()
    found = np.concatenate([leaf.double().numpy().ravel() for leaf in answer.values()]) * 10.0
    expected = 0.5 * body * min(1.0, norm / np.linalg.norm(body))
    np.testing.assert_allclose(found, expected, rtol=3e-4, atol=1e-5 * np.abs(expected).max())


def test_an_answer_has_the_shapes_of_the_body_in_float32() -> None:
    answer = site(twelve_patients()).gradient(AT, (0, 1))
    assert {n: leaf.shape for n, leaf in answer.items()} == {
        n: leaf.shape for n, leaf in AT.body.items()
    }
    assert {leaf.dtype for leaf in answer.values()} == {torch.float32}


def test_the_gradient_points_uphill() -> None:
    task = twelve_patients()
    at = site(task, source=KnownSource())
    first = at.gradient(AT, (0, 1))
    before = at.loss
    lower = {name: leaf - 0.05 * first[name] for name, leaf in AT.body.items()}
    at.gradient(Parameters(lower, HEAD), (0, 1))
    assert at.loss < before
