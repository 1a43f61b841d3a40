"""What mini-batches promise: sizes, and that no image is favoured."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaward.episodes import Examples
from metaward.meta.minibatches import batch_indices, minibatches


@given(
    n=st.integers(1, 12),
    batch_size=st.integers(1, 15),
    steps=st.integers(0, 12),
    seed=st.integers(0, 2**32),
)
def test_batches_go_through_all_images_again_and_again(
    n: int, batch_size: int, steps: int, seed: int
) -> None:
    batches = list(batch_indices(n, batch_size, steps, np.random.default_rng(seed)))
    assert [len(batch) for batch in batches] == [min(batch_size, n)] * steps
    drawn = [int(index) for batch in batches for index in batch]
    for start in range(0, len(drawn), n):
        one_pass = drawn[start : start + n]
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(n))


def test_every_pass_has_an_order_of_its_own() -> None:
    rng = np.random.default_rng(0)
    passes = [tuple(batch.tolist()) for batch in batch_indices(9, 9, 5, rng)]
    assert len(set(passes)) == 5


def test_a_batch_holds_images_with_their_own_labels() -> None:
    labels = torch.tensor([2, 0, 1, 1, 0])
    examples = Examples(labels.float().view(5, 1, 1, 1), labels, n_way=3)
    for batch in minibatches(examples, 2, 7, np.random.default_rng(0)):
        assert torch.equal(batch.images.flatten().long(), batch.labels)
        assert batch.n_way == 3
