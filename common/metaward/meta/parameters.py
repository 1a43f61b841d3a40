"""What an inner loop moves: the body, and the head of one task."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from metaward.arrays import Tensors
from metaward.meta.head import Head


@dataclass(frozen=True)
class Parameters:
    """Body and head; a gradient with respect to them has the same form.

    Attributes:
        body: The body's leaves, as in theta.
        head: (n_way, features) and (n_way,).
    """

    body: Tensors
    head: Head

    def leaves(self) -> list[torch.Tensor]:
        """Return the body's leaves, then weight and bias of the head."""
        return [*self.body.values(), self.head.weight, self.head.bias]

    def holding(self, leaves: Sequence[torch.Tensor]) -> "Parameters":
        """Return the same form with other leaves, in the order of :meth:`leaves`."""
        *body, weight, bias = leaves
        return Parameters(dict(zip(self.body, body, strict=True)), Head(weight, bias))

    def detached(self) -> "Parameters":
        """Return the same values as leaves of a graph of their own; memory is shared."""
        return self.holding([leaf.detach().requires_grad_() for leaf in self.leaves()])

    def times(self, rate: "float | Parameters") -> "Parameters":
        """Return all leaves multiplied by one number, or each by its own, number by number."""
        if not isinstance(rate, Parameters):
            return self.holding([rate * leaf for leaf in self.leaves()])
        body = {name: rate.body[name] * leaf for name, leaf in self.body.items()}
        weight, bias = rate.head.weight * self.head.weight, rate.head.bias * self.head.bias
        return Parameters(body, Head(weight, bias))

    def stepped(self, gradient: "Parameters", lr: "float | Parameters") -> "Parameters":
        """Return the parameters after one step of SGD against ``gradient``.

        Args:
            gradient: In the form of these parameters.
            lr: One rate for all, or one for each leaf or number.
        """
        step = gradient.times(lr)
        body = {name: leaf - step.body[name] for name, leaf in self.body.items()}
        weight = self.head.weight - step.head.weight
        return Parameters(body, Head(weight, self.head.bias - step.head.bias))
