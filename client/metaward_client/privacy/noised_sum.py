"""The one place where noise is added: a clipped sum becomes a release.

    released = (sum + N(0, (z C)^2 I)) / divisor

The sum is in float64, the noise comes from the operating system, the divisor is a public constant.
Noise is added to an empty sum as well: whether anybody was drawn is nobody's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metaward.errors import PrivacyError
from metaward_client.privacy.clip_norm import centred_bits, clip_factors, next_norm, noise_shares
from metaward_client.privacy.terms import Terms

Sums = dict[str, NDArray[np.float64]]


class Normals(Protocol):
    """A source of random numbers; in production the operating system's."""

    def normals(self, n: int) -> NDArray[np.float64]:
        """Return n independent standard normals."""
        ...

    def uniforms(self, n: int) -> NDArray[np.float64]:
        """Return n independent uniforms in (0, 1)."""
        ...


@dataclass
class NoisedSums:
    """The noised sums of one round: no more than the ledger has charged.

    Attributes:
        terms: What was charged.
        source: Where noise comes from.
        max_grad_norm: C, as it stands; moves where it adapts.
        released: Sums released so far.
    """

    terms: Terms
    source: Normals
    max_grad_norm: float
    released: int = field(default=0, init=False)

    def release(
        self,
        vectors: "ClippedSum",
        shapes: Mapping[str, tuple[int, ...]],
        *,
        moves_norm: bool = True,
    ) -> dict[str, NDArray[np.float64]]:
        """Return the noised mean, leaf by leaf, and move C where it adapts.

        Args:
            vectors: The sum.
            shapes: Of its leaves.
            moves_norm: Whether these vectors are those that C follows; a sum of others releases no
                bits.

        Raises:
            PrivacyError: More sums than were charged, or a sum that was clipped to another norm.
        """
        if self.released >= self.terms.steps:
            raise PrivacyError(
                f"noised sum number {self.released + 1} of a round",
                expected=f"{self.terms.steps}, which is what the ledger has charged",
                where="the learner",
                next_step="Report this: nothing was released.",
            )
        if vectors.max_grad_norm != self.max_grad_norm:
            raise PrivacyError("a sum that was clipped to another norm than the noise is made for")
        self.released += 1
        terms, shares = (
            self.terms,
            noise_shares(self.terms.noise_multiplier, adaptive=self.terms.adaptive_clipping),
        )
        std = shares.vectors * self.max_grad_norm
        noised = {}
        for name, shape in shapes.items():
            noise = self.source.normals(int(np.prod(shape, dtype=np.int64))).reshape(shape)
            noised[name] = (vectors.sums[name] + std * noise) / terms.divisor
        if terms.adaptive_clipping and moves_norm:
            bits = vectors.bits + shares.bits * float(self.source.normals(1)[0])
            self.max_grad_norm = next_norm(self.max_grad_norm, bits, terms.divisor)
        return noised

    def require_complete(self) -> None:
        """Check that all that was charged was released: the three counts must be equal.

        Raises:
            PrivacyError: Fewer sums were released than charged.
        """
        if self.released != self.terms.steps:
            raise PrivacyError(
                f"{self.released} noised sums in a round",
                expected=f"{self.terms.steps}, which is what the ledger has charged",
                where="the learner",
                next_step="Report this: nothing was released.",
            )


@dataclass
class ClippedSum:
    """A sum of vectors, one per unit of privacy, each clipped to L2 norm C over all leaves.

    Attributes:
        max_grad_norm: C.
        sums: Leaf name -> float64 sum.
        bits: Sum of (1 if not clipped) - 1/2 over the units.
    """

    max_grad_norm: float
    sums: Sums
    bits: float = 0.0

    @classmethod
    def empty(cls, shapes: Mapping[str, tuple[int, ...]], max_grad_norm: float) -> "ClippedSum":
        """Return the sum over nobody."""
        return cls(max_grad_norm, {name: np.zeros(shape) for name, shape in shapes.items()})

    def add(
        self,
        vectors: Mapping[str, NDArray[np.floating]],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Add units.

        A unit with a value that is not finite adds zero; it is set to zero before it is clipped.

        Args:
            vectors: Leaf name -> (n_units, *shape).
            weights: (n_units,); each clipped vector is multiplied with its own. Left out: 1.

        Raises:
            PrivacyError: A weight is not in [0, 1], so that a vector could exceed the norm.
        """
        if weights is not None and not ((weights >= 0) & (weights <= 1)).all():
            raise PrivacyError("a weight outside [0, 1] on a clipped vector")
        axes = {name: _in_memory_order(leaf) for name, leaf in vectors.items()}
        wide = {
            name: np.asarray(
                leaf.transpose(axes[name]).reshape(len(leaf), self.sums[name].size), np.float64
            )
            for name, leaf in vectors.items()
        }
        # overflow to inf is meant: such a unit counts as not finite
        with np.errstate(over="ignore", invalid="ignore"):
            squares = sum(np.einsum("ij,ij->i", leaf, leaf) for leaf in wide.values())
            norms = np.sqrt(np.asarray(squares, dtype=np.float64))
        factors = clip_factors(norms, self.max_grad_norm)
        factors = factors if weights is None else factors * weights
        kept = np.flatnonzero(factors)
        everybody = len(kept) == len(factors)
        for name, leaf in wide.items():
            total = factors @ leaf if everybody else factors[kept] @ leaf[kept]
            into = self.sums[name].transpose([axis - 1 for axis in axes[name][1:]])
            into += total.reshape(into.shape)
        self.bits += centred_bits(norms, self.max_grad_norm)


def _in_memory_order(leaf: NDArray[np.floating]) -> list[int]:
    """Return the axes of (n_units, *shape), those of the shape by their strides: no copy is made.

    A convolution's gradients come out of a product with their axes in another order.
    """
    return [0, *sorted(range(1, leaf.ndim), key=lambda axis: -leaf.strides[axis])]
