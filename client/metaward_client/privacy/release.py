"""The one door: everything that a site lets out about its data is an ``Update`` made here.

A test reads the syntax trees of all packages and fails when an ``Update`` is built elsewhere at a
site. A mechanism that protects patients is added behind this function, so that nothing around it
can send a delta that has not passed through.
"""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from metaward.errors import PrivacyError
from metaward.wire import Update


class Mechanism(StrEnum):
    """How a delta is made safe to leave the site."""

    NONE = "none"

    @property
    def label(self) -> str:
        """The name to show to people: it says so when nothing protects the patients."""
        match self:
            case Mechanism.NONE:
                return "none (NOT PRIVATE)"


def release(
    delta: Mapping[str, NDArray[np.float32]],
    *,
    study_digest: str,
    round_index: int,
    mechanism: Mechanism,
) -> Update:
    """Return the update that may leave the site.

    Args:
        delta: Direction to ADD to theta, float32, finite; copied.
        study_digest: Digest of the study that asked.
        round_index: Round that asked, from 0.
        mechanism: With ``NONE`` the delta leaves as it was computed: NOT PRIVATE.

    Raises:
        PrivacyError: The delta holds something other than finite float32 numbers.
    """
    for name, array in delta.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise PrivacyError(
                "a delta with values that are not finite float32 numbers",
                expected="finite float32 numbers",
                where=f"round {round_index}, array {name}",
                next_step="Lower the learner's step size; nothing was sent.",
            )
    match mechanism:
        case Mechanism.NONE:
            released = {name: array.copy() for name, array in delta.items()}
    return Update(study_digest=study_digest, round_index=round_index, delta=released)
