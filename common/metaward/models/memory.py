"""A controller with an external memory that is written to the least used rows.

Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, arXiv:1605.06065: reading as in section
3.1, writing by least recently used access, section 3.2. An LSTM sees an input x_t and what it read
a step ago, and gives h_t. With n read heads, for each of them

    k_t = tanh(W_k h_t)                                         key, and what is stored
    w^r_t = softmax over rows i of b cos(k_t, M_{t-1}(i)),     r_t = w^r_t M_{t-1}
    w^w_t = sigmoid(a_t) w^r_{t-1} + (1 - sigmoid(a_t)) w^lu_t,     a_t = W_a h_t
    M_t = M_{t-1} with the n least used rows set to zero, + sum over heads of w^w_t k_t^T
    w^u_t = gamma w^u_{t-1} + sum over heads of (w^r_t + w^w_t)
    logits_t = W_o (h_t, r_t)

w^lu_t is 1 at a least used row by w^u_{t-1}, else 0 (the paper numbers it t - 1).

A step reads before it writes. The paper's equations say M_t in both, and the key is what is stored:
after the writing it would have a cosine of 1 with its own row, and read little else.

Not in the paper: the head of number j takes the j-th least used row, of equally used ones the
first; the tanh; and the key strength b (Graves, Wayne and Danihelka 2014, arXiv:1410.5401,
equation 5), without which (b = 1) a cosine moves a softmax over many rows hardly at all.

The memory starts empty at every sequence. No state outlives a call.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

EMPTY = 1.0e-3
"""Length of a row, against 1 or more of a written one, below which it is near to no key."""


@dataclass(frozen=True)
class MemoryState:
    """What the network remembers of a sequence, for each of a batch of sequences.

    Attributes:
        hidden: (batch, hidden), of the LSTM.
        cell: (batch, hidden), of the LSTM.
        memory: (batch, rows, width).
        read: (batch, heads * width), what the heads read last.
        read_weights: (batch, heads, rows), where they read it.
        usage: (batch, rows), decayed sum of read and write weights.
    """

    hidden: torch.Tensor
    cell: torch.Tensor
    memory: torch.Tensor
    read: torch.Tensor
    read_weights: torch.Tensor
    usage: torch.Tensor

    def repeated(self, n: int) -> "MemoryState":
        """Return each sequence ``n`` times in a row, (batch * n, ...)."""
        parts = (self.hidden, self.cell, self.memory, self.read, self.read_weights, self.usage)
        return MemoryState(*(part.repeat_interleave(n, dim=0) for part in parts))


class MemoryNetwork(nn.Module):
    """From inputs and a state to logits and the next state, step by step.

    Args:
        n_inputs: Values of an input.
        n_outputs: Logits of a step.
        hidden: Units of the LSTM.
        rows: Rows of the memory; no parameter depends on it.
        width: Values of a row.
        heads: Read heads; each writes too.
        decay: gamma, in [0, 1].
        strength: b, above 0.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        hidden: int,
        rows: int,
        width: int,
        heads: int,
        decay: float,
        strength: float,
    ) -> None:
        super().__init__()
        self.rows, self.width, self.heads = rows, width, heads
        self.decay, self.strength = decay, strength
        self.controller = nn.LSTMCell(n_inputs + heads * width, hidden)
        self.key = nn.Linear(hidden, heads * width)
        self.gate = nn.Linear(hidden, heads)
        self.output = nn.Linear(hidden + heads * width, n_outputs)

    def forward(
        self, inputs: torch.Tensor, state: MemoryState | None = None
    ) -> tuple[torch.Tensor, MemoryState]:
        """Return logits (steps, batch, n_outputs) of inputs (steps, batch, n_inputs).

        Without a state the memory is empty.
        """
        state = state or self.empty(inputs[0])
        logits = []
        for one in inputs:
            state = self.step(one, state)
            logits.append(self.output(torch.cat([state.hidden, state.read], dim=1)))
        return torch.stack(logits), state

    def empty(self, like: torch.Tensor) -> MemoryState:
        """Return the state before a sequence, for as many as ``like`` has rows."""
        batch = len(like)
        return MemoryState(
            hidden=like.new_zeros(batch, self.controller.hidden_size),
            cell=like.new_zeros(batch, self.controller.hidden_size),
            memory=like.new_zeros(batch, self.rows, self.width),
            read=like.new_zeros(batch, self.heads * self.width),
            read_weights=like.new_zeros(batch, self.heads, self.rows),
            usage=like.new_zeros(batch, self.rows),
        )

    def step(self, inputs: torch.Tensor, state: MemoryState) -> MemoryState:
        """Return the state after one input (batch, n_inputs)."""
        seen = torch.cat([inputs, state.read], dim=1)
        hidden, cell = self.controller(seen, (state.hidden, state.cell))
        keys = torch.tanh(self.key(hidden)).reshape(-1, self.heads, self.width)
        read_weights = (self.strength * cosines(keys, state.memory)).softmax(dim=2)
        gate = torch.sigmoid(self.gate(hidden))[:, :, None]
        least_used = least_used_rows(state.usage, self.heads)
        write_weights = gate * state.read_weights + (1 - gate) * least_used
        kept = state.memory * (1 - least_used.sum(dim=1))[:, :, None]
        return MemoryState(
            hidden=hidden,
            cell=cell,
            memory=kept + write_weights.transpose(1, 2) @ keys,
            read=(read_weights @ state.memory).flatten(1),
            read_weights=read_weights,
            usage=self.decay * state.usage + (read_weights + write_weights).sum(dim=1),
        )


def least_used_rows(usage: torch.Tensor, n: int) -> torch.Tensor:
    """Return the ``n`` least used rows, least first, as indicators (batch, n, rows).

    Of equally used rows the first. No gradient goes through the choice.

    >>> least_used_rows(torch.tensor([[0.5, 0.1, 0.1]]), 2).int().tolist()
    [[[0, 1, 0], [0, 0, 1]]]
    """
    chosen = usage.detach().argsort(dim=1, stable=True)[:, :n]
    return F.one_hot(chosen, usage.shape[1]).to(usage.dtype)


def cosines(keys: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each key with each row, (batch, heads, rows); about 0 where empty.

    Args:
        keys: (batch, heads, width).
        memory: (batch, rows, width).
    """
    return _unit(keys) @ _unit(memory).transpose(1, 2)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors of length 1, shorter where theirs is not much more than ``EMPTY``."""
    return vectors / (vectors.square().sum(dim=2, keepdim=True) + EMPTY**2).sqrt()
