"""Adam in the inner loop, with beta1 = 0: each number's gradient over its recent size.

Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, with beta1 = 0 as Nichol, Achiam and Schulman 2018
take it (arXiv:1803.02999, appendix A), so that a step holds no gradient of an earlier mini-batch:

    v <- beta2 v + (1 - beta2) g^2,   phi <- phi - lr * g / (sqrt(v / (1 - beta2^t)) + epsilon)

v are the second moments and t counts the steps that they have seen.
"""

from dataclasses import dataclass, field

import torch

from metaward.arrays import Tensors
from metaward.meta.head import Head
from metaward.meta.parameters import Parameters

BETA2, EPSILON = 0.999, 1.0e-8
"""Of Kingma and Ba, and of Reptile's."""


@dataclass
class SecondMoments:
    """Running mean squares of gradients; changed by every gradient that is rescaled."""

    steps: int = 0
    v: Tensors = field(default_factory=dict)

    def rescaled(self, gradient: Tensors) -> Tensors:
        """Take the gradient in, and return it over the root of its corrected mean square."""
        self.steps += 1
        unbiased = 1.0 - BETA2**self.steps
        rescaled = {}
        for name, slope in gradient.items():
            before = self.v.get(name, torch.zeros_like(slope))
            self.v[name] = BETA2 * before + (1.0 - BETA2) * slope.square()
            rescaled[name] = slope / ((self.v[name] / unbiased).sqrt() + EPSILON)
        return rescaled


@dataclass
class AdamSteps:
    """Rescales the gradients of body and head.

    A head is made for one task: its rows mean nothing in the next, so its moments go with it. The
    body's may go on.
    """

    body: SecondMoments = field(default_factory=SecondMoments)
    head: SecondMoments = field(default_factory=SecondMoments)

    def for_a_new_head(self) -> "AdamSteps":
        """Return the same moments of the body, with fresh ones for a head."""
        return AdamSteps(self.body)

    def rescaled(self, gradient: Parameters) -> Parameters:
        """Return what plain SGD is to step against in place of ``gradient``."""
        head = self.head.rescaled({"weight": gradient.head.weight, "bias": gradient.head.bias})
        return Parameters(self.body.rescaled(gradient.body), Head(**head))
