"""The meta-parameters theta: the body's leaves, and those that a learner has beside them.

A learner's own are its rates, its comparison network, its memory. They are leaves like any other:
they start as the study says, travel, are averaged, clipped and noised with the body's. Their names
begin with :data:`OWN`, which no leaf of a body does.
"""

from collections.abc import Mapping

import torch
from torch import nn

from metaward.arrays import Tensors

OWN = "learner."
"""What the name of every leaf begins with that is not the body's."""


def own_leaves(theta: Mapping[str, torch.Tensor]) -> Tensors:
    """Return the learner's own leaves, by the names that it gave them.

    >>> list(own_leaves({"conv": torch.zeros(1), "learner.rate": torch.ones(1)}))
    ['rate']
    """
    return {name.removeprefix(OWN): leaf for name, leaf in theta.items() if name.startswith(OWN)}


def body_leaves(theta: Mapping[str, torch.Tensor]) -> Tensors:
    """Return the leaves that are the body's."""
    return {name: leaf for name, leaf in theta.items() if not name.startswith(OWN)}


def named_as_own(leaves: Mapping[str, torch.Tensor]) -> Tensors:
    """Return a learner's leaves by their names in theta; detached copies.

    A single number is a leaf of shape (1,): arithmetic on arrays without axes gives numpy scalars,
    which are no arrays any more.
    """
    assert all(leaf.ndim for leaf in leaves.values())
    return {OWN + name: leaf.detach().clone() for name, leaf in leaves.items()}


def own_of_module(module: nn.Module) -> Tensors:
    """Return the parameters of a learner's network by their names in theta."""
    return named_as_own(dict(module.named_parameters()))
