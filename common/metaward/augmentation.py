"""Augmentation: more views of the same images while a site trains; never at evaluation."""

import numpy as np
import torch
from numpy.typing import NDArray

from metaward.episodes import Examples
from metaward.learner_settings import Augment


def augmented(examples: Examples, how: Augment, rng: np.random.Generator) -> Examples:
    """Return the examples with each image changed on its own; labels stay."""
    if how == "none":
        return examples
    views = drawn_views(how, len(examples.labels), rng)
    return Examples(seen_as(examples.images, views), examples.labels, examples.n_way)


def drawn_views(how: Augment, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw how each of n images is seen: elements of the dihedral group, 0 for "as it is".

    ``dihedral`` turns every image by a random multiple of 90 degrees and mirrors half of them.
    It suits findings whose side and angle mean nothing; where they do, use ``none``.
    """
    match how:
        case "none":
            return np.zeros(n, dtype=np.int64)
        case "dihedral":
            return rng.integers(0, 8, size=n)


def seen_as(images: torch.Tensor, views: NDArray[np.int64]) -> torch.Tensor:
    """Return (n, channels, size, size) with each image turned and mirrored as its view says."""
    if not views.any():
        return images
    out = images.clone()
    for element in range(1, 8):
        mine = torch.from_numpy(np.flatnonzero(views == element))
        turned = torch.rot90(images[mine], element % 4, dims=(2, 3))
        out[mine] = turned.flip(3) if element >= 4 else turned
    return out
