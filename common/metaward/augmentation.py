"""Augmentation: more views of the same images while a site trains; never at evaluation."""

import numpy as np
import torch

from metaward.episodes import Examples
from metaward.study import Augment


def augmented(examples: Examples, how: Augment, rng: np.random.Generator) -> Examples:
    """Return the examples with each image changed on its own; labels stay.

    ``dihedral`` turns every image by a random multiple of 90 degrees and mirrors half of them.
    It suits findings whose side and angle mean nothing; where they do, use ``none``.
    """
    match how:
        case "none":
            return examples
        case "dihedral":
            images = random_dihedral(examples.images, rng)
            return Examples(images, examples.labels, examples.n_way)


def random_dihedral(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return (n, channels, size, size) with each image turned and mirrored at random."""
    choice = torch.from_numpy(rng.integers(0, 8, size=len(images)))
    out = images.clone()
    for element in range(1, 8):
        turned = torch.rot90(images[choice == element], element % 4, dims=(2, 3))
        out[choice == element] = turned.flip(3) if element >= 4 else turned
    return out
