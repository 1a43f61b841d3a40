"""Who takes part: Poisson samples, and the blocks that patients belong to."""

import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaward_client.privacy.noised_sum import Normals

HASH_BYTES = 16
"""128 bits of hash modulo B: the most and the least likely block differ by B / 2^128."""


def poisson_sample(n: int, sample_rate: float, source: Normals) -> NDArray[np.int64]:
    """Return, in ascending order, the units of 0..n-1 that are drawn, each on its own.

    Every unit enters with probability ``sample_rate`` whatever the others do, so the size of the
    sample is random, and an empty one is as good as any other. Shuffled batches of fixed size are
    another mechanism, with another, larger epsilon.

    Args:
        n: All units, those included that have nothing to add.
        sample_rate: q, in (0, 1].
        source: The operating system's randomness: who can foretell the sample takes its
            protection away.
    """
    return np.flatnonzero(source.uniforms(n) < sample_rate)


def block_of(tokens: Sequence[bytes], n_blocks: int, key: bytes) -> NDArray[np.int64]:
    """Return the block of each patient, 0..n_blocks-1.

    A keyed hash of one patient's own token: adding, removing or renaming another patient moves
    nobody, and nobody without the key can choose a block.

    Args:
        tokens: What identifies each patient within the site; equal for one patient everywhere.
        n_blocks: B.
        key: Secret of the site, at least 16 bytes.
    """
    if len(key) < HASH_BYTES:
        raise ValueError(f"a key of {len(key)} bytes; {HASH_BYTES} are needed")
    hashes = (hmac.digest(key, token, "sha256")[:HASH_BYTES] for token in tokens)
    numbers = (int.from_bytes(digest, "big") % n_blocks for digest in hashes)
    return np.fromiter(numbers, dtype=np.int64, count=len(tokens))
