"""Noise is standard normal, never repeats, and nobody can foretell it.

The keys here are known to everybody, so that the figures are the same on every run.
"""

import hashlib
import os
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from metaward_client.privacy import noise
from metaward_client.privacy.noise import NoiseSource, os_noise

KEY = bytes(range(32))
DRAWS = 100_000
# The chance that a sound source fails a test here is about one in a thousand, and then always.
ALPHA = 1e-3


@pytest.fixture(scope="module")
def normals() -> NDArray[np.float64]:
    return NoiseSource(KEY).normals(DRAWS)


def in_a_fork(ask: Callable[[], bytes]) -> bytes:
    """Return what a forked child answers."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, ask())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        return answer.read()


def test_normals_follow_the_normal_distribution(normals: NDArray[np.float64]) -> None:
    assert normals.dtype == np.float64
    assert np.isfinite(normals).all()
    assert stats.kstest(normals, "norm").pvalue > ALPHA


def test_normals_have_the_moments_of_the_normal(normals: NDArray[np.float64]) -> None:
    # standard errors: mean 1/sqrt(n), skewness sqrt(6/n), excess kurtosis sqrt(24/n)
    assert abs(normals.mean()) < 4 / np.sqrt(DRAWS)
    assert abs(stats.skew(normals)) < 4 * np.sqrt(6 / DRAWS)
    assert abs(stats.kurtosis(normals)) < 4 * np.sqrt(24 / DRAWS)


def test_the_scale_of_the_noise_is_one(normals: NDArray[np.float64]) -> None:
    # the sum of n squares is chi-square with n degrees of freedom
    low, high = stats.chi2.interval(1 - ALPHA, DRAWS)
    assert low < np.sum(normals**2) < high


@pytest.mark.parametrize("bound", [2.0, 3.0, 4.0])
def test_tails_are_as_heavy_as_the_normals(normals: NDArray[np.float64], bound: float) -> None:
    beyond = int(np.sum(np.abs(normals) > bound))
    assert stats.binomtest(beyond, DRAWS, 2 * stats.norm.sf(bound)).pvalue > ALPHA


def test_one_normal_says_nothing_about_another(normals: NDArray[np.float64]) -> None:
    half = DRAWS // 2  # the other halves of one normal's pairs make the one half an array away
    for lag in (1, 2, half, half // 2, DRAWS // 4 + 1):
        for power in (1, 2):
            a, b = normals[:-lag] ** power, normals[lag:] ** power
            assert stats.pearsonr(a, b).pvalue > ALPHA, (lag, power)


def test_no_normal_is_the_sum_of_the_two_halves_of_one_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The points of pair i are (2^i, 1024 * 2^i): the binary digits of a sum say what it is made of.
    radii = 2.0 ** np.arange(8)
    monkeypatch.setattr(NoiseSource, "_polar", lambda _, n: (radii[:n], np.zeros(n)))
    monkeypatch.setattr(noise.np, "sin", lambda angle: np.full_like(angle, 1024.0))
    for normal in NoiseSource(KEY).normals(4) * 2:
        from_cos, from_sin = int(normal) % 1024, int(normal) // 1024
        assert (from_cos == 0) != (from_sin == 0)
        assert (from_cos + from_sin).bit_count() == 4


def test_uniforms_fill_the_open_interval_evenly() -> None:
    uniforms = NoiseSource(KEY).uniforms(DRAWS)
    assert uniforms.dtype == np.float64
    assert stats.kstest(uniforms, "uniform").pvalue > ALPHA
    assert stats.pearsonr(uniforms[:-1], uniforms[1:]).pvalue > ALPHA


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_uniforms_are_never_zero_or_one(monkeypatch: pytest.MonkeyPatch, byte: bytes) -> None:
    monkeypatch.setattr(NoiseSource, "_bytes", lambda _, n: n * byte)
    uniforms = NoiseSource(KEY).uniforms(8)
    assert ((uniforms > 0) & (uniforms < 1)).all()
    assert np.isfinite(NoiseSource(KEY).normals(8)).all()


@pytest.mark.parametrize("top_bits", [0, 1, 2, 2**52 - 1])
def test_uniforms_have_53_bits(monkeypatch: pytest.MonkeyPatch, top_bits: int) -> None:
    word = (top_bits << 11) + 5  # the lowest 11 of 64 bits are left out
    monkeypatch.setattr(NoiseSource, "_bytes", lambda _, n: word.to_bytes(n, "little"))
    assert NoiseSource(KEY).uniforms(1)[0] == (top_bits + 0.5) * 2.0**-53


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_as_many_numbers_come_as_were_asked_for(n: int) -> None:
    source = NoiseSource(KEY)
    assert source.normals(n).shape == source.uniforms(n).shape == (n,)


def test_a_stream_never_repeats_itself() -> None:
    source = NoiseSource(KEY)
    first, second = source.normals(1000), source.normals(1000)
    assert len(np.unique(np.concatenate([first, second]))) == 2000


def test_one_key_is_one_stream_and_two_keys_are_two() -> None:
    assert np.array_equal(NoiseSource(KEY).normals(50), NoiseSource(KEY).normals(50))
    assert not np.isin(NoiseSource(KEY).normals(50), NoiseSource(bytes(32)).normals(50)).any()


def test_the_stream_is_chacha20() -> None:
    # RFC 8439, A.1, test vector 1: key 0, nonce 0, counter 0
    expected = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert NoiseSource(bytes(32))._bytes(32) == expected


def test_production_takes_its_key_from_the_operating_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not np.isin(os_noise().normals(50), os_noise().normals(50)).any()
    asked: list[int] = []
    monkeypatch.setattr(noise.os, "urandom", lambda n: asked.append(n) or KEY)
    assert np.array_equal(os_noise().normals(5), NoiseSource(KEY).normals(5))
    assert asked == [32]


def test_a_forked_process_does_not_repeat_the_stream() -> None:
    source = NoiseSource(KEY)
    source.normals(3)
    children = [in_a_fork(lambda: source.normals(50).tobytes()) for _ in range(2)]
    here = source.normals(50)
    streams = [here, *(np.frombuffer(child) for child in children)]
    assert [len(stream) for stream in streams] == [50, 50, 50]
    assert len(np.unique(np.concatenate(streams))) == 150
    # and the parent goes on as if nothing had happened
    alone = NoiseSource(KEY)
    alone.normals(3)
    assert np.array_equal(alone.normals(50), here)


def test_a_stream_is_left_before_its_counter_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source, plain = NoiseSource(KEY), NoiseSource(KEY)._bytes(128)
    monkeypatch.setattr(noise, "REKEY_AFTER_BYTES", 64)
    assert source._bytes(40) + source._bytes(24) == plain[:64]
    assert source._bytes(24) != plain[64:88]


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"a key of {length} bytes; 32 are needed"):
        NoiseSource(bytes(length))


def test_the_source_does_not_show_its_key() -> None:
    source = NoiseSource(hashlib.sha256(b"secret").digest())
    held = vars(source).values()
    assert hashlib.sha256(b"secret").digest() not in held
    assert hashlib.sha256(b"secret").hexdigest() not in repr(source)
