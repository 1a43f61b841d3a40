"""An answered round on the site's disk: a delta as safetensors, always the same bytes."""

import numpy as np

from metaward.arrays import Arrays
from metaward.errors import PrivacyError


def encode_reply(delta: Arrays) -> bytes:
    """Return the bytes of a delta."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(leaf) for name, leaf in delta.items()})


def decode_reply(content: bytes, theta: Arrays) -> Arrays:
    """Return the delta of :func:`encode_reply`, which must have theta's names and shapes.

    Raises:
        PrivacyError: It has others: the round was answered for another model.
    """
    from safetensors.numpy import load

    stored = load(content)
    shapes = {name: leaf.shape for name, leaf in stored.items()}
    if shapes != {name: leaf.shape for name, leaf in theta.items()}:
        raise PrivacyError(
            "an answered round of another model",
            expected="the model that the round was answered for",
            next_step="Nothing was sent. Ask the coordinator why it changed the model.",
        )
    return {name: np.array(stored[name], dtype=np.float32) for name in theta}
