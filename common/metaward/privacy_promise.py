"""What a hospital says of its own privacy policy, beside every update.

It is the hospital's word: constants of its policy, which its ledger enforces, and nothing that
depends on a patient. A coordinator shows it and cannot verify it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from metaward.errors import ProtocolError
from metaward.model_artefact import NO_MECHANISM, PrivacyStatement

NOT_PRIVATE, DP_SGD, BLOCK = "none", "dp-sgd", "block"
ADD_OR_REMOVE_ONE, REPLACE_ONE = "add or remove one patient", "replace one patient"
MECHANISM_KEY, NEIGHBOURING_KEY = "mechanism", "neighbouring"
EPSILON_KEY, DELTA_KEY = "target-epsilon", "target-delta"
IN_WORDS = {DP_SGD: "patient DP-SGD", BLOCK: "block release"}


@dataclass(frozen=True)
class PrivacyPromise:
    """The most that one patient may lose at one hospital, in all studies together, for ever.

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


def joint_statement(promises: Iterable[PrivacyPromise]) -> PrivacyStatement:
    """Return what may be said of a model that learned from all these hospitals.

    The largest epsilon and the largest delta hold at each of them. One hospital without a
    mechanism makes the model NOT PRIVATE, and so does no promise at all.
    """
    private = [
        (promise, promise.target_epsilon, promise.target_delta)
        if promise.target_epsilon is not None and promise.target_delta is not None
        else None
        for promise in promises
    ]
    known = [one for one in private if one is not None]
    if not known or len(known) < len(private):
        return PrivacyStatement()
    return PrivacyStatement(
        mechanism=_joined(IN_WORDS[promise.mechanism] for promise, _, _ in known)
        + ", as the hospitals say",
        unit="patient",
        neighbouring=_joined(promise.neighbouring for promise, _, _ in known),
        sampling="Poisson",
        accountant="each hospital's own ledger, all its studies together",
        epsilon=max(epsilon for _, epsilon, _ in known),
        target_delta=max(delta for _, _, delta in known),
    )


def _joined(words: Iterable[str]) -> str:
    return " or ".join(sorted(set(words)))
