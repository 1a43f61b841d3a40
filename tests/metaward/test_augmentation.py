"""What augmentation changes, and what it must not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaward.augmentation import augmented, drawn_views, seen_as
from metaward.episodes import Examples

SIDE = 3


def numbered(n: int, channels: int = 1) -> torch.Tensor:
    """Return images whose pixels all differ, so that each turn of one looks different."""
    pixels = torch.arange(n * channels * SIDE * SIDE, dtype=torch.float32)
    return pixels.view(n, channels, SIDE, SIDE)


def turned_at_random(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return seen_as(images, drawn_views("dihedral", len(images), rng))


def dihedral_group(image: np.ndarray) -> list[bytes]:
    """Return the eight turns and mirror images of (channels, side, side), by numpy."""
    turned = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    return [np.ascontiguousarray(view).tobytes() for t in turned for view in (t, t[:, :, ::-1])]


@given(n=st.integers(0, 9), channels=st.sampled_from([1, 3]), seed=st.integers(0, 2**32))
def test_each_image_keeps_its_own_pixels(n: int, channels: int, seed: int) -> None:
    images = numbered(n, channels)
    turned = turned_at_random(images, np.random.default_rng(seed))
    assert turned.shape == images.shape
    for before, after in zip(images.flatten(2), turned.flatten(2), strict=True):
        assert torch.equal(before.sort().values, after.sort().values)


def test_every_outcome_is_a_turn_or_mirror_image_and_all_eight_are_as_frequent() -> None:
    n = 4000
    image = numbered(1, channels=3)
    turned = turned_at_random(image.repeat(n, 1, 1, 1), np.random.default_rng(0)).numpy()
    group = dihedral_group(image[0].numpy())
    assert len(set(group)) == 8
    counts = [sum(t.tobytes() == element for t in turned) for element in group]
    assert sum(counts) == n
    # n/8 = 500; standard deviation sqrt(n * 1/8 * 7/8) = 21
    assert all(abs(count - 500) < 5 * 21 for count in counts)


def test_images_of_a_batch_are_turned_each_on_its_own() -> None:
    image = numbered(1)
    turned = turned_at_random(image.repeat(64, 1, 1, 1), np.random.default_rng(0))
    assert len({t.numpy().tobytes() for t in turned}) == 8


def test_the_images_given_are_left_as_they_were() -> None:
    images = numbered(5)
    turned_at_random(images, np.random.default_rng(0))
    assert torch.equal(images, numbered(5))


def test_labels_stay_and_none_is_the_identity() -> None:
    examples = Examples(numbered(4), torch.tensor([0, 1, 1, 0]), n_way=2)
    state = np.random.default_rng(1)
    assert augmented(examples, "none", state) is examples
    assert state.random() == np.random.default_rng(1).random()  # nothing was drawn
    turned = augmented(examples, "dihedral", np.random.default_rng(1))
    assert torch.equal(turned.labels, examples.labels)
    assert turned.n_way == 2
    assert not torch.equal(turned.images, examples.images)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_generator_gives_the_same_turns(seed: int) -> None:
    one, other = (turned_at_random(numbered(20), np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(one, other)
