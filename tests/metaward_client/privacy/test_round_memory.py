"""What a private round leaves for the next: the clip norm, and class sums that lose their noise."""

import json

import pytest
import torch

from metaward.meta.noised import ClassSums
from metaward_client.privacy.round_memory import DECAY, PooledSums, RoundMemory, pooled


def sums(value: float, n_labels: int = 2, features: int = 3) -> ClassSums:
    return ClassSums(torch.full((n_labels, features), value), torch.full((n_labels,), value))


def test_the_first_rounds_sums_are_taken_as_they_are() -> None:
    mean = pooled(None, sums(0.5)).mean()
    assert torch.equal(mean.features, sums(0.5).features)
    assert torch.equal(mean.patients, sums(0.5).patients)


def test_older_sums_weigh_less() -> None:
    """Of 1, 2 and 4, in this order: (4 + 0.8 * 2 + 0.64 * 1) / (1 + 0.8 + 0.64)."""
    state = pooled(pooled(pooled(None, sums(1.0)), sums(2.0)), sums(4.0))
    expected = (4 + DECAY * 2 + DECAY**2) / (1 + DECAY + DECAY**2)
    torch.testing.assert_close(state.mean().features, sums(expected).features)
    torch.testing.assert_close(state.mean().patients, sums(expected).patients)


def test_sums_that_stay_the_same_stay_the_same_in_the_mean() -> None:
    state: PooledSums | None = None
    for _ in range(30):
        state = pooled(state, sums(0.7))
    assert state is not None
    torch.testing.assert_close(state.mean().features, sums(0.7).features)


def test_pooling_takes_noise_out() -> None:
    """In the long run the variance is (1 - decay) / (1 + decay), a ninth."""
    generator = torch.Generator().manual_seed(1)
    state: PooledSums | None = None
    for _ in range(40):
        noise = torch.randn(20, 500, generator=generator)
        state = pooled(state, ClassSums(noise, torch.zeros(20)))
    assert state is not None
    assert float(state.mean().features.var()) == pytest.approx(1 / 9, rel=0.05)


@pytest.mark.parametrize("other", [sums(9.0, n_labels=3), sums(9.0, features=4)])
def test_sums_of_another_model_or_list_of_labels_are_dropped(other: ClassSums) -> None:
    assert torch.equal(pooled(pooled(None, other), sums(1.0)).mean().features, sums(1.0).features)


def test_a_memory_is_read_as_it_was_written() -> None:
    state = pooled(pooled(None, sums(0.1)), sums(0.3))
    again = RoundMemory.read(RoundMemory(sums=state).written(2.5))
    assert again.max_grad_norm == 2.5
    assert again.sums is not None
    assert torch.equal(again.sums.mean().features, state.mean().features)
    assert torch.equal(again.sums.mean().patients, state.mean().patients)


def test_a_study_without_class_sums_leaves_the_norm_alone_or_nothing() -> None:
    written = RoundMemory().written(1.5)
    assert written is not None
    assert json.loads(written) == {"max_grad_norm": 1.5}
    assert RoundMemory().written(None) is None
    assert RoundMemory.read(None) == RoundMemory()


def test_class_sums_are_kept_where_the_norm_does_not_adapt() -> None:
    again = RoundMemory.read(RoundMemory(sums=pooled(None, sums(0.1))).written(None))
    assert again.max_grad_norm is None
    assert again.sums is not None
