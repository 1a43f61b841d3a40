"""What tests of company share: a site's threads, and large images prepared beside one another."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from metaward_client.privacy_audit.company import discs

LARGE = 256


@contextmanager
def threads_of_a_site(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def all_in_one_call(images: torch.Tensor) -> torch.Tensor:
    """Standardise as it was done: where there is one large image alone, threads share its sum."""
    std, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    return (images - mean) / std.clamp_min(1e-3)


def large_image_that_ties() -> np.ndarray:
    """Return a large image that another one beside it moved by the last bits."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        image = discs(1, (1, LARGE, LARGE), rng)
        alone = torch.from_numpy(image.astype(np.float32))
        pair = all_in_one_call(alone.repeat(2, 1, 1, 1))
        if not torch.equal(all_in_one_call(alone), pair[:1]):
            return image
    pytest.skip("on this processor no image ties")
