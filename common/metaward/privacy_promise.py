"""What a hospital says of its own privacy policy, beside every update.

It is the hospital's word: constants of its policy, which its ledger enforces, and nothing that
depends on a patient. A coordinator shows it and cannot verify it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from metaward.errors import ProtocolError

NOT_PRIVATE, DP_SGD, BLOCK = "none", "dp-sgd", "block"
NO_MECHANISM = "none (NOT PRIVATE)"
"""What every output calls the absence of a mechanism, in words that no reader can miss."""
ADD_OR_REMOVE_ONE, REPLACE_ONE = "add or remove one patient", "replace one patient"
MECHANISM_KEY, NEIGHBOURING_KEY = "mechanism", "neighbouring"
EPSILON_KEY, DELTA_KEY = "target-epsilon", "target-delta"
IN_WORDS = {DP_SGD: "patient DP-SGD", BLOCK: "block release"}


@dataclass(frozen=True)
class PrivacyPromise:
    """The most that one patient may lose at one hospital, in all studies together, for ever.

    Of what left under a mechanism: rounds answered without one are in no ledger, and not in this.

    Attributes:
        mechanism: ``"dp-sgd"``, ``"block"``, or ``"none"``: NOT PRIVATE.
        target_epsilon: Above 0 and finite; None without a mechanism.
        target_delta: Above 0 and below 1; None without a mechanism.
        neighbouring: The relation in which epsilon is accounted; empty without a mechanism.
    """

    mechanism: str = NOT_PRIVATE
    target_epsilon: float | None = None
    target_delta: float | None = None
    neighbouring: str = ""

    def to_settings(self) -> dict[str, str | float]:
        """Return what stands in an update's header."""
        if self.target_epsilon is None or self.target_delta is None:
            return {MECHANISM_KEY: NOT_PRIVATE}
        return {
            MECHANISM_KEY: self.mechanism,
            NEIGHBOURING_KEY: self.neighbouring,
            EPSILON_KEY: self.target_epsilon,
            DELTA_KEY: self.target_delta,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:  # Any: whatever was sent
        """Read what :meth:`to_settings` wrote; other keys are an error too.

        Raises:
            ProtocolError: It is nothing that a hospital of this release says.
        """
        if dict(settings) == {MECHANISM_KEY: NOT_PRIVATE}:
            return cls()
        if settings.keys() != {MECHANISM_KEY, NEIGHBOURING_KEY, EPSILON_KEY, DELTA_KEY}:
            raise ProtocolError("unknown or missing keys", where="the privacy promise")
        mechanism, neighbouring = settings[MECHANISM_KEY], settings[NEIGHBOURING_KEY]
        epsilon, delta = settings[EPSILON_KEY], settings[DELTA_KEY]
        if (
            mechanism not in (DP_SGD, BLOCK)
            or neighbouring not in (ADD_OR_REMOVE_ONE, REPLACE_ONE)
            or not (isinstance(epsilon, float) and math.isfinite(epsilon) and epsilon > 0)
            or not (isinstance(delta, float) and 0 < delta < 1)
        ):
            raise ProtocolError("a value out of its range", where="the privacy promise")
        return cls(mechanism, epsilon, delta, neighbouring)

    @property
    def sentence(self) -> str:
        """The promise in a few words, for a table."""
        if self.target_epsilon is None or self.target_delta is None:
            return NO_MECHANISM
        return f"{self.target_epsilon:g} at delta {self.target_delta:.1e}, {self.mechanism}"


NO_PROMISE = PrivacyPromise()
