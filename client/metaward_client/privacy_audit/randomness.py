"""Sources of randomness for an audit: fixed, without noise, and counting."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metaward_client.privacy.noised_sum import Normals


@dataclass
class NoNoise:
    """Zeros for noise, and uniforms that depend on the call and the unit's place alone.

    So a unit that comes last changes no other unit's draw: two worlds share all randomness.
    """

    seed: int = 0
    calls: int = field(default=0, init=False)

    def normals(self, n: int) -> NDArray[np.float64]:
        """Return n zeros."""
        return np.zeros(n)

    def uniforms(self, n: int) -> NDArray[np.float64]:
        """Return n uniforms; the first ones are the same whatever n is."""
        self.calls += 1
        return np.random.default_rng([self.seed, self.calls]).random(n)


@dataclass
class CountedSource:
    """Another source, with a count of the normals that were drawn from it."""

    source: Normals
    drawn: int = field(default=0, init=False)

    def normals(self, n: int) -> NDArray[np.float64]:
        """Return n normals of the source."""
        self.drawn += n
        return self.source.normals(n)

    def uniforms(self, n: int) -> NDArray[np.float64]:
        """Return n uniforms of the source."""
        return self.source.uniforms(n)
