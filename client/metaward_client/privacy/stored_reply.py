"""An answered round on the site's disk: a delta as safetensors, always the same bytes.

A round whose patients may have been drawn but that has no delta to send is closed with an empty
answer. It is not worked on again: each further refusal would tell something of a fresh sample and
fresh noised sums, for which nobody has paid.
"""

import numpy as np

from metaward.arrays import Arrays
from metaward.errors import PrivacyError

CLOSED = b""
"""Stored for a round that has no answer and gets none."""


def encode_reply(delta: Arrays) -> bytes:
    """Return the bytes of a delta."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(leaf) for name, leaf in delta.items()})


def decode_reply(content: bytes, theta: Arrays) -> Arrays:
    """Return the delta of :func:`encode_reply`, which must have theta's names and shapes.

    Raises:
        PrivacyError: It has others: the round was answered for another model. Or the round was
            closed without an answer.
    """
    from safetensors.numpy import load

    if content == CLOSED:
        raise PrivacyError(
            "a round that was closed without an answer",
            expected="a round that the site has answered, or a new one",
            next_step="Nothing was sent; the study goes on with its next round.",
        )
    stored = load(content)
    shapes = {name: leaf.shape for name, leaf in stored.items()}
    if shapes != {name: leaf.shape for name, leaf in theta.items()}:
        raise PrivacyError(
            "an answered round of another model",
            expected="the model that the round was answered for",
            next_step="Nothing was sent. Ask the coordinator why it changed the model.",
        )
    return {name: np.array(stored[name], dtype=np.float32) for name in theta}
