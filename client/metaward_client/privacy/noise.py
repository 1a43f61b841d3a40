"""Normal and uniform numbers that nobody can foretell: the operating system's randomness.

A key from ``os.urandom`` starts a ChaCha20 stream (RFC 8439, from the package ``cryptography``);
53 bits of it make a uniform, two uniforms make two normals (Box and Muller 1958), in float64.

Floating point leaves gaps between the values that such a normal can take, and the gaps can tell
what was added to it (Mironov 2012, "On significance of the least significant bits for differential
privacy"). Each normal here is the sum of four, halved, which is again a standard normal: who wants
to find the draws behind a value has to search several uniforms at once instead of two (Holohan and
Braghin 2021, arXiv:2107.10138). The two normals of one pair never meet in a sum, because
cos a + sin a = sqrt(2) cos(a - pi/4) would make them one draw again: the four come from four pairs,
eight uniforms, whose other halves make one other normal.

What this gives: the search is out of reach. What it does not give: a proof for floats. The bound
on epsilon holds for real numbers, and sums that differ still reach slightly different sets of
floats. (The release is rounded to float32 afterwards, which hides most of the low bits.)

torch's and numpy's seeded generators are not used for noise: who knows the seed takes it off.
"""

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

KEY_BYTES = 32
DRAWS_PER_NORMAL = 4
BITS_OF_DOUBLE = 53
REKEY_AFTER_BYTES = 2**36
"""A stream is left long before its counter of 2^32 blocks of 64 bytes is used up."""


class NoiseSource:
    """A stream of random numbers from a key; with :func:`os_noise`, from the operating system.

    A process that was forked from this one takes a fresh key of its own.

    Args:
        key: 32 bytes. A key that anybody knows, such as in a test, makes noise that protects
            nothing.
    """

    def __init__(self, key: bytes) -> None:
        self._start(key)

    def uniforms(self, n: int) -> NDArray[np.float64]:
        """Return n independent uniforms of 53 bits, above 0 and below 1."""
        words = np.frombuffer(self._bytes(8 * n), dtype="<u8") >> np.uint64(64 - BITS_OF_DOUBLE)
        # 53 bits and a half need 54; the largest would round to 1, which must not happen
        return np.minimum((words.astype(np.float64) + 0.5) * 2.0**-BITS_OF_DOUBLE, 1 - 2.0**-53)

    def normals(self, n: int) -> NDArray[np.float64]:
        """Return n independent standard normals."""
        half = (n + 1) // 2
        radius, angle = self._polar(DRAWS_PER_NORMAL * half)
        sums = [  # no sum holds both halves of a pair
            (radius * part(angle)).reshape(DRAWS_PER_NORMAL, half).sum(axis=0)
            for part in (np.cos, np.sin)
        ]
        total: NDArray[np.float64] = np.concatenate(sums)[:n] / np.sqrt(DRAWS_PER_NORMAL)
        return total

    def _polar(self, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return radius and angle of n points of the plane, both coordinates standard normal."""
        uniforms = self.uniforms(2 * n)
        return np.sqrt(-2.0 * np.log(uniforms[:n])), 2.0 * np.pi * uniforms[n:]

    def _bytes(self, n: int) -> bytes:
        if os.getpid() != self._process or self._used + n > REKEY_AFTER_BYTES:
            self._start(os.urandom(KEY_BYTES))
        self._used += n
        return self._stream.update(bytes(n))

    def _start(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; {KEY_BYTES} are needed")
        nonce = bytes(16)  # one key makes one stream, so the nonce may be constant
        self._stream: CipherContext = Cipher(ChaCha20(key, nonce), mode=None).encryptor()
        self._process = os.getpid()
        self._used = 0


def os_noise() -> NoiseSource:
    """Return a source whose key comes from the operating system and is known to nobody."""
    return NoiseSource(os.urandom(KEY_BYTES))
