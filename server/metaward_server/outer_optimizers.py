"""Outer optimisers: how the mean delta moves theta.

FedOpt, Reddi et al. 2021 (Adaptive Federated Optimization, ICLR), Algorithm 2. There Delta_t is the
mean of the sites' deltas, a direction to ADD to theta, as here; so every step below adds.

    SGD        theta <- theta + eta * Delta
    momentum   v <- beta * v + Delta;                    theta <- theta + eta * v
    Adam       m <- beta1 * m + (1 - beta1) * Delta
               v <- beta2 * v + (1 - beta2) * Delta^2;   theta <- theta + eta * m / (sqrt(v) + tau)
    Yogi       m as Adam
               v <- v - (1 - beta2) * Delta^2 * sign(v - Delta^2);   theta as Adam

Like the paper's algorithm there is no bias correction, and v starts at tau^2 (the paper asks for
v_{-1} >= tau^2): with v small at first and m scaled by (1 - beta1), early steps stay of the order
of eta. Momentum is heavy ball without dampening, as FedAvgM (Hsu et al. 2019).

State in, state out: float32 arrays, so that a stored state continues to the same bits. Sums are
taken in float64 and rounded once.
"""

from typing import TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from metaward.arrays import Arrays
from metaward.study import AdamSettings, MomentumSettings, OuterSettings, SgdSettings, YogiSettings

OuterState: TypeAlias = dict[str, Arrays]
"""Name of a slot ("velocity", "first", "second") -> one array per leaf of theta."""

Wide: TypeAlias = NDArray[np.float64]


def initial_state(settings: OuterSettings, theta: Arrays) -> OuterState:
    """Return the state before the first round."""
    match settings:
        case SgdSettings():
            return {}
        case MomentumSettings():
            return {"velocity": _filled(theta, 0.0)}
        case AdamSettings() | YogiSettings():
            return {"first": _filled(theta, 0.0), "second": _filled(theta, settings.tau**2)}
        case _:
            assert_never(settings)


def outer_step(
    settings: OuterSettings, state: OuterState, theta: Arrays, delta: Arrays
) -> tuple[Arrays, OuterState]:
    """Move ``theta`` along ``delta`` and return it with the next state; arguments are not changed.

    Args:
        settings: Which rule, with its constants.
        state: What :func:`initial_state` or the last call gave.
        theta: Meta-parameters.
        delta: Mean of the admitted deltas: direction to ADD, leaves as in ``theta``.
    """
    match settings:
        case SgdSettings():
            return _add(theta, settings.step_size, {n: _wide(d) for n, d in delta.items()}), {}
        case MomentumSettings():
            velocity = {
                name: settings.momentum * _wide(state["velocity"][name]) + _wide(leaf)
                for name, leaf in delta.items()
            }
            return _add(theta, settings.step_size, velocity), {"velocity": _narrow(velocity)}
        case AdamSettings() | YogiSettings():
            return _adaptive_step(settings, state, theta, delta)
        case _:
            assert_never(settings)


def _adaptive_step(
    settings: AdamSettings | YogiSettings, state: OuterState, theta: Arrays, delta: Arrays
) -> tuple[Arrays, OuterState]:
    first: dict[str, Wide] = {}
    second: dict[str, Wide] = {}
    direction: dict[str, Wide] = {}
    for name, leaf in delta.items():
        step, square = _wide(leaf), _wide(leaf) ** 2
        m, v = _wide(state["first"][name]), _wide(state["second"][name])
        first[name] = settings.beta1 * m + (1 - settings.beta1) * step
        if isinstance(settings, AdamSettings):
            second[name] = settings.beta2 * v + (1 - settings.beta2) * square
        else:
            second[name] = v - (1 - settings.beta2) * square * np.sign(v - square)
        direction[name] = first[name] / (np.sqrt(second[name]) + settings.tau)
    moved = _add(theta, settings.step_size, direction)
    return moved, {"first": _narrow(first), "second": _narrow(second)}


def _add(theta: Arrays, step_size: float, direction: dict[str, Wide]) -> Arrays:
    return _narrow(
        {name: _wide(leaf) + step_size * direction[name] for name, leaf in theta.items()}
    )


def _filled(theta: Arrays, value: float) -> Arrays:
    return {name: np.full_like(leaf, value) for name, leaf in theta.items()}


def _wide(array: NDArray[np.float32]) -> Wide:
    return array.astype(np.float64)


def _narrow(arrays: dict[str, Wide]) -> Arrays:
    return {name: array.astype(np.float32) for name, array in arrays.items()}
