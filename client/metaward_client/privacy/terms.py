"""What one round costs, in the words in which it is accounted.

A private round is ``steps`` uses of one mechanism: draw a Poisson sample at rate q, sum one vector
of norm at most C per sampled unit, add N(0, (sigma C)^2 I). Sigma and q decide the cost; C and the
divisor do not, but they are part of what a site pins for a study, so they are kept beside them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from metaward import privacy_promise
from metaward.errors import PrivacyError
from metaward.privacy_promise import BLOCK, DP_SGD

MECHANISMS = (DP_SGD, BLOCK)
LEAST_DELTA = 1e-10
"""Of a target: below it float64 no longer carries the accountant's answer, and epsilon is soon
infinite with any noise."""

LEAST_NOISE_MULTIPLIER, MOST_NOISE_MULTIPLIER = 1.0e-3, 1.0e6
"""Of what people may ask for: nobody means less or more, and far outside floats overflow."""


class Relation(StrEnum):
    """Which two data sets must be hard to tell apart."""

    ADD_OR_REMOVE_ONE = privacy_promise.ADD_OR_REMOVE_ONE
    REPLACE_ONE = privacy_promise.REPLACE_ONE


@dataclass(frozen=True, order=True)
class GaussianStep:
    """One use of the Gaussian mechanism on a Poisson sample.

    Args:
        noise_multiplier: sigma, the noise's standard deviation over the norm bound C; above 0.
        sample_rate: q, the chance that one unit enters the sample; in (0, 1].

    Raises:
        PrivacyError: A value is out of its range or not finite.
    """

    noise_multiplier: float
    sample_rate: float

    def __post_init__(self) -> None:
        _require_positive("noise_multiplier", self.noise_multiplier)
        _require_positive("sample_rate", self.sample_rate, at_most=1.0)


Composition = Mapping[GaussianStep, int]
"""How many of each step, in any order: the cost of adaptive composition does not depend on it."""


@dataclass(frozen=True)
class Terms:
    """What one round costs and how it is made private; pinned per study at its first round.

    Args:
        mechanism: ``"dp-sgd"`` (units are patients) or ``"block"`` (units are blocks of patients).
        noise_multiplier: sigma, the noise's standard deviation over ``max_grad_norm``; above 0.
        sample_rate: q, the chance that one unit enters one sum; in (0, 1].
        steps: k, noised sums per round; at least 1, exactly 1 for ``"block"``.
        max_grad_norm: C, L2 bound of what one unit adds (the public start value where it adapts).
        divisor: Public constant that every sum is divided by: q N0, or q B for ``"block"``.
        adaptive_clipping: Whether the norm bound adapts, which is paid from the same noise.

    Raises:
        PrivacyError: A value is out of its range or not finite.
    """

    mechanism: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    divisor: float
    adaptive_clipping: bool = False

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS:
            raise _out_of_range("mechanism", self.mechanism, " or ".join(MECHANISMS))
        _require_positive("noise_multiplier", self.noise_multiplier)
        _require_positive("sample_rate", self.sample_rate, at_most=1.0)
        _require_positive("max_grad_norm", self.max_grad_norm)
        _require_positive("divisor", self.divisor)
        if type(self.steps) is not int or self.steps < 1:
            raise _out_of_range("steps", self.steps, "a whole number, at least 1")
        if self.mechanism == BLOCK and self.steps != 1:
            raise _out_of_range("steps", self.steps, "1, because a block is released once a round")

    @property
    def relation(self) -> Relation:
        """The relation in which this mechanism alone is accounted.

        A patient is one unit of DP-SGD: adding or removing one moves a sum by at most C. A patient
        is part of a block, which stays when the patient goes: the block's vector is replaced, and
        the sum moves by at most 2C. A ledger that holds both accounts all under ``REPLACE_ONE``.
        """
        return Relation.REPLACE_ONE if self.mechanism == BLOCK else Relation.ADD_OR_REMOVE_ONE

    def per_round(self) -> dict[GaussianStep, int]:
        """Return what one round adds to the ledger's composition."""
        return {GaussianStep(self.noise_multiplier, self.sample_rate): self.steps}


@dataclass(frozen=True)
class Budget:
    """What a site's patients may lose in all: at most ``target_epsilon`` at ``target_delta``.

    Args:
        target_epsilon: Above 0 and finite.
        target_delta: Above 0 and below 1; at most 1 / (10 N0) is wise.

    Raises:
        PrivacyError: A value is out of its range or not finite.
    """

    target_epsilon: float
    target_delta: float

    def __post_init__(self) -> None:
        _require_positive("target_epsilon", self.target_epsilon)
        _require_positive("target_delta", self.target_delta)
        if self.target_delta >= 1:
            raise _out_of_range("target_delta", self.target_delta, "a number below 1")


def _require_positive(name: str, value: float, *, at_most: float = math.inf) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and 0 < value <= at_most):
        bound = "" if at_most == math.inf else f", at most {at_most:g}"
        raise _out_of_range(name, value, f"a finite number above 0{bound}")


def _out_of_range(name: str, value: object, expected: str) -> PrivacyError:
    return PrivacyError(
        f"{value!r}",
        expected=expected,
        where=name,
        next_step="Correct the privacy settings; nothing was released.",
    )
