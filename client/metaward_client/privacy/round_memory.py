"""What a private round leaves at the site for the study's next one: functions of what was released.

The clip norm, where it adapts, and class sums pooled over the rounds: theta moves little from one
round to the next, so earlier sums, weighing less the older they are, take most of the noise out of
the prototypes. Both are computed from noised sums that the ledger has charged, so they cost
nothing (docs/threat-model.md, A.4). They stay on the site's disk.
"""

import json
from dataclasses import dataclass

import torch

from metaward.meta.noised import ClassSums
from metaward_client.privacy.policy import ProtectedSettings

DECAY = 0.8
"""What a round's sums weigh against the next one's: about five rounds count."""


@dataclass(frozen=True)
class PooledSums:
    """Class sums of several rounds, added up with weights.

    Attributes:
        total: The weighted sum.
        weight: Sum of the weights, at least 1.
    """

    total: ClassSums
    weight: float

    def mean(self) -> ClassSums:
        """Return the weighted mean."""
        return ClassSums(self.total.features / self.weight, self.total.patients / self.weight)


def pooled(earlier: PooledSums | None, new: ClassSums) -> PooledSums:
    """Add a round's sums to those before; sums of another shape, of another model, are dropped."""
    if earlier is None or earlier.total.features.shape != new.features.shape:
        return PooledSums(new, 1.0)
    total = ClassSums(
        DECAY * earlier.total.features + new.features,
        DECAY * earlier.total.patients + new.patients,
    )
    return PooledSums(total, DECAY * earlier.weight + 1.0)


@dataclass
class RoundMemory:
    """What one round was left, and leaves.

    Attributes:
        max_grad_norm: C, where the last round left it; None before the first one, and of a study
            whose C stays.
        sums: Pooled class sums; None where no learner has asked for any.
    """

    max_grad_norm: float | None = None
    sums: PooledSums | None = None

    @classmethod
    def read(cls, content: bytes | None) -> "RoundMemory":
        """Return what :meth:`written` wrote; an empty memory for None."""
        if content is None:
            return cls()
        found = json.loads(content)
        norm, sums = found.get("max_grad_norm"), found.get("class_sums")
        if sums is None:
            return cls(norm)
        total = ClassSums(torch.tensor(sums["features"]), torch.tensor(sums["patients"]))
        return cls(norm, PooledSums(total, sums["weight"]))

    def written(self, max_grad_norm: float | None) -> bytes | None:
        """Return the bytes to keep; None where the next round needs nothing of this one.

        Args:
            max_grad_norm: C as it stands at the round's end; None where it does not adapt.
        """
        content: dict[str, object] = {}
        if max_grad_norm is not None:
            content["max_grad_norm"] = max_grad_norm
        if self.sums is not None:
            content["class_sums"] = {
                "features": self.sums.total.features.tolist(),
                "patients": self.sums.total.patients.tolist(),
                "weight": self.sums.weight,
            }
        return json.dumps(content).encode() if content else None

    def start_norm(self, policy: ProtectedSettings) -> float:
        """Return C at the start of a round: where the study's last round left it, if it adapts."""
        if self.max_grad_norm is None or not policy.adaptive_clipping:
            return policy.max_grad_norm
        return self.max_grad_norm
