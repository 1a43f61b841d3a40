"""Every unit is drawn on its own; a patient's block depends on nobody else."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from metaward_client.privacy.noise import NoiseSource
from metaward_client.privacy.poisson import block_of, poisson_sample

KEY = bytes(range(32))
ALPHA = 1e-3


class Uniforms:
    """Gives the numbers that it was made with."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def uniforms(self, n: int) -> NDArray[np.float64]:
        assert n == len(self.values), "one uniform per unit, for all of them"
        return np.array(self.values)

    def normals(self, n: int) -> NDArray[np.float64]:
        raise AssertionError(n)


def test_a_unit_is_drawn_when_its_own_uniform_is_below_the_rate() -> None:
    drawn = poisson_sample(5, 0.3, Uniforms(0.31, 0.29, 0.9, 0.0001, 0.3))
    assert drawn.tolist() == [1, 3]
    assert drawn.dtype == np.int64


def test_nobody_may_be_drawn() -> None:
    assert poisson_sample(2, 0.3, Uniforms(0.5, 0.9)).tolist() == []
    assert poisson_sample(0, 0.3, NoiseSource(KEY)).tolist() == []


def test_at_rate_one_everybody_is_drawn() -> None:
    assert poisson_sample(1000, 1.0, NoiseSource(KEY)).tolist() == list(range(1000))


def test_every_set_of_units_is_drawn_as_often_as_it_should_be() -> None:
    # P(S) = q^|S| (1 - q)^(3 - |S|) for each of the 8 subsets of 3 units
    q, trials, source = 0.3, 20_000, NoiseSource(KEY)
    seen = Counter(tuple(poisson_sample(3, q, source).tolist()) for _ in range(trials))
    subsets = [s for size in range(4) for s in itertools.combinations(range(3), size)]
    expected = [trials * q ** len(s) * (1 - q) ** (3 - len(s)) for s in subsets]
    assert stats.chisquare([seen[s] for s in subsets], expected).pvalue > ALPHA


def test_the_size_of_a_sample_is_binomial() -> None:
    n, q, source = 40, 0.1, NoiseSource(KEY)
    sizes = [len(poisson_sample(n, q, source)) for _ in range(20_000)]
    seen = np.bincount(np.minimum(sizes, 11), minlength=12)
    chances = stats.binom.pmf(np.arange(12), n, q)
    chances[11] = stats.binom.sf(10, n, q)
    assert stats.chisquare(seen, len(sizes) * chances).pvalue > ALPHA


def test_being_drawn_once_says_nothing_about_the_next_time_or_the_neighbour() -> None:
    n, q, source = 50, 0.2, NoiseSource(KEY)
    drawn = np.zeros((4000, n))
    for row in drawn:
        row[poisson_sample(n, q, source)] = 1
    for a, b in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > ALPHA


tokens = st.binary(min_size=1, max_size=12)


@given(patients=st.lists(tokens, min_size=1, max_size=30, unique=True), n_blocks=st.integers(1, 9))
def test_adding_or_removing_patients_moves_nobody(patients: list[bytes], n_blocks: int) -> None:
    everybody = dict(zip(patients, block_of(patients, n_blocks, KEY).tolist(), strict=True))
    without = patients[::-2]
    assert block_of(without, n_blocks, KEY).tolist() == [everybody[token] for token in without]
    alone = [block_of([token], n_blocks, KEY)[0] for token in patients]
    assert alone == list(everybody.values())
    assert set(alone) <= set(range(n_blocks))


def test_blocks_are_of_like_size() -> None:
    patients = [f"patient {i}".encode() for i in range(14_000)]
    seen = np.bincount(block_of(patients, 7, KEY), minlength=7)
    assert stats.chisquare(seen).pvalue > ALPHA


def test_who_shares_a_block_depends_on_the_key() -> None:
    # under another key a patient stays in one of 20 blocks by chance: 1 in 20
    patients = [f"patient {i}".encode() for i in range(2000)]
    other = bytes(32)
    same = int(np.sum(block_of(patients, 20, KEY) == block_of(patients, 20, other)))
    assert stats.binomtest(same, 2000, 1 / 20).pvalue > ALPHA


def test_blocks_stay_where_they_were_in_earlier_versions() -> None:
    # HMAC-SHA256, first 16 bytes as a big-endian number, modulo B; a patient who changed block
    # within a study would be in two of them
    patients = [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert block_of(patients, 10, KEY).tolist() == [1, 0, 7, 9, 0, 9]


def test_nobody_needs_no_block() -> None:
    assert block_of([], 10, KEY).shape == (0,)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="a key of 15 bytes; 16 are needed"):
        block_of([b"a"], 2, bytes(15))
