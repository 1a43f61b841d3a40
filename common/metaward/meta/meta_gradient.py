"""From theta to where an inner loop starts, and from a gradient there back to theta.

Finn, Abbeel and Levine 2017, arXiv:1703.03400, start the body from theta. The head here is made
from the support set (metaward.meta.head), and one of prototypes is a function of theta too
(Triantafillou et al. 2020, arXiv:1903.03096, section 3). A gradient (v_body, v_head) at the start
is therefore, in theta,

    v_body + (d head_0 / d theta)^T v_head
"""

from collections.abc import Mapping

import torch

from metaward.adapt_settings import HeadStart
from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.head import first_head, zero_head
from metaward.meta.inner_loop import features_under, loss_and_gradient
from metaward.meta.parameters import Parameters
from metaward.models.body import Body


def start_of(body: Body, leaves: Tensors, support: Examples, how: HeadStart) -> Parameters:
    """Return the body's leaves and the head that they give: where the inner loop starts.

    Args:
        body: The network.
        leaves: Its leaves, tracked.
        support: What the head is made from.
        how: A head of zeros is made of leaves of its own, and no function of ``leaves``.
    """
    if how == "zeros":
        like, tasks = support.images, support.labels.shape[:-1]
        head = zero_head(body.features, support.n_way, like=like, tasks=tasks)
        return Parameters(leaves, head.detached())
    features = features_under(body, leaves, support)
    return Parameters(leaves, first_head(how, features, support.labels, support.n_way))


def unrolled(
    body: Body, start: Parameters, support: Examples, *, lr: float | Parameters, steps: int
) -> Parameters:
    """Return where the inner loop leads as a function of ``start``, to be differentiated.

    All of its steps stay in memory until the gradient is taken.
    """
    # Aliases, or a step's gradient of the body would go through the prototypes too.
    at = start.holding([leaf.view_as(leaf) for leaf in start.leaves()])
    for _ in range(steps):
        _, gradient = loss_and_gradient(body, at, support, create_graph=True)
        at = at.stepped(gradient, lr)
    return at


def back_to_theta(start: Parameters, gradient: Parameters) -> Tensors:
    """Return the gradient with respect to the body's leaves from the one at the start."""
    if start.head.weight.is_leaf:  # of zeros
        return gradient.body
    through_head = torch.autograd.grad(
        [start.head.weight, start.head.bias],
        list(start.body.values()),
        [gradient.head.weight, gradient.head.bias],
    )
    pairs = zip(gradient.body.items(), through_head, strict=True)
    return {name: direct + via_head for (name, direct), via_head in pairs}


def minus(gradient: Mapping[str, torch.Tensor]) -> Tensors:
    """Return the direction to ADD that a gradient to descend gives."""
    return {name: -slope for name, slope in gradient.items()}
