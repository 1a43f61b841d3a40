"""The two attacks work on what would leave without a mechanism: else their figures say nothing."""

import itertools
import math

import numpy as np
import pytest
import torch
from mutants import BODY
from scipy.stats import norm

from metaward.meta.noised import public_head
from metaward.model_settings import ModelSettings
from metaward.models.build import build_body
from metaward.privacy_promise import DP_SGD
from metaward_client.privacy.noise import NoiseSource
from metaward_client.privacy.terms import Terms
from metaward_client.privacy_audit.inversion import gradient_of, invert, private_gradient, psnr
from metaward_client.privacy_audit.membership import (
    _log_ratio,
    _result,
    attack,
    patient_vectors,
    plain_release,
)
from metaward_client.privacy_audit.randomness import NoNoise
from metaward_client.privacy_audit.unit_release import product_release
from metaward_client.privacy_audit.worlds import synthetic_task

TASK = synthetic_task(np.random.default_rng(0), n_patients=24)
SOURCE = NoiseSource(bytes(32))

pytestmark = pytest.mark.usefixtures("one_thread")


def test_members_are_told_from_a_plain_mean_and_not_from_a_noised_sum() -> None:
    vectors = patient_vectors(BODY, TASK)
    rng = np.random.default_rng(0)
    plain = attack(plain_release, vectors, SOURCE, rng, runs=200)
    terms = Terms(DP_SGD, 1.0, 0.05, 1, 1.0, divisor=1.0)
    private = attack(product_release(terms), vectors, SOURCE, rng, runs=200)
    assert plain.auc > 0.62
    assert abs(private.auc - 0.5) < 0.06
    assert plain.true_rates[0] <= plain.true_rates[-1] <= 1


def test_a_release_that_names_its_members_is_read_without_error() -> None:
    vectors = np.eye(6)
    exact = attack(
        lambda records, _: records.sum(axis=(0, 1)), vectors, SOURCE, np.random.default_rng(0),
        runs=60,
    )  # fmt: skip
    assert exact.auc == 1.0
    assert exact.caught == 1.0


def test_the_likelihood_ratio_is_that_of_two_normals() -> None:
    rng = np.random.default_rng(0)
    inside, outside, new = rng.normal(2.0, 1.0, 50), rng.normal(0.0, 3.0, 50), rng.normal(size=9)
    member = np.repeat([True, False], 50)
    found = _log_ratio(np.concatenate([inside, outside]), member, new)
    width = math.sqrt((inside.var() + outside.var()) / 2)
    laws = norm(inside.mean(), width), norm(outside.mean(), width)
    assert found == pytest.approx(laws[0].logpdf(new) - laws[1].logpdf(new))


def test_members_are_found_at_one_false_alarm_in_a_hundred() -> None:
    others = np.arange(1000.0)
    members = np.concatenate([np.full(30, 995.0), np.full(70, 500.0)])
    assert _result(members, others).caught == 0.3


def test_releases_that_are_attacked_teach_the_attacker_nothing() -> None:
    """The first half of the releases says nothing, so there is nothing to attack the rest with."""
    number = itertools.count()

    def telling_later(records: np.ndarray, _: object) -> np.ndarray:
        total = records.sum(axis=(0, 1))
        return np.asarray(total if next(number) >= 30 else np.zeros_like(total))

    rng = np.random.default_rng(0)
    assert attack(telling_later, np.eye(6), SOURCE, rng, runs=60).auc == 0.5


@pytest.mark.parametrize("noise_multiplier", [0.5, 2.0])
def test_the_gradient_that_is_inverted_has_the_policys_clip_and_noise(
    noise_multiplier: float,
) -> None:
    class Ones(NoNoise):
        def normals(self, n: int) -> np.ndarray:
            return np.ones(n)

    [released] = private_gradient([torch.tensor([30.0, 40.0])], noise_multiplier, 5.0, Ones())
    expected = np.array([3.0, 4.0]) + noise_multiplier * 5.0
    assert released.numpy() == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_an_image_is_drawn_again_from_a_raw_gradient_and_not_from_a_release() -> None:
    body = build_body(ModelSettings(filters=16, groups=1, image_size=16), 1)
    theta, head = body.initial_parameters(), public_head(body.features, range(3), 3, seed=0)
    image, shape = TASK.take(np.array([0])), (1, 1, 16, 16)
    raw = gradient_of(body, theta, head, image, 0)
    private = private_gradient(raw, 1.0, 1.0, SOURCE)
    from_raw, from_private = (
        psnr(image, invert(body, theta, head, seen, 0, shape, steps=400)) for seen in (raw, private)
    )
    print(f"raw {from_raw:.1f} dB, private {from_private:.1f} dB")  # noqa: T201 (pytest -rP)
    grey = psnr(image, torch.zeros(shape))
    assert from_raw > grey + 2.5
    assert from_private < grey + 1


def test_likeness_ignores_shift_and_scale_and_is_the_mean_square_error_in_decibels() -> None:
    image = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert psnr(image, 3 * image + 7) > 100
    assert psnr(image, torch.ones(2, 2)) == pytest.approx(10 * math.log10(1 / 0.25))
    assert psnr(3 * image, torch.ones(2, 2)) == pytest.approx(10 * math.log10(1 / 0.25))
