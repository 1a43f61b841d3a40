"""Full context embeddings: every image of an episode is seen in the light of the whole support set.

Vinyals et al. 2016, arXiv:1606.04080, section 2.1.2 and appendix A, with f' = g' the body, d
features, and s_1 .. s_n the support set in its canonical order:

    g(s_i) = forward h_i + backward h_i + g'(s_i),   both LSTMs over g'(s_1) .. g'(s_n)

    f(x) = h_K, from h_0 = c_0 = 0 by K = processing_steps steps of
        r_{k-1} = sum over i of softmax_i( h_{k-1} . g(s_i) / sqrt(d) ) g(s_i)
        (o_k, c_k) = LSTM( f'(x); [h_{k-1}, r_{k-1}], c_{k-1} )
        h_k = o_k + f'(x)

An LSTM reads one image after another, so g depends on the order of the support set. A site may
store its files in any order, and an order by class would tell which images belong together. So the
order is that of the images' own bytes (:func:`in_canonical_order`): it means nothing, and is the
same whatever the files are called and whatever numbers the classes have.

The division by sqrt(d) keeps an untrained read from looking at one image alone; the paper has none.
"""

import torch
from torch import nn
from torch.func import functional_call

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.errors import ConfigError
from metaward.models.build import seeded

MOST_FEATURES = 1024
"""With d features the networks have 28 d^2 + 24 d parameters: at this d 118 MB."""


class FullContext(nn.Module):
    """The LSTMs of both embeddings.

    Attributes:
        over_support: Reads the support set in both directions.
        read: One step of f: features and what was read go in, h and c are carried.
        steps: K.
    """

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.over_support = nn.LSTM(features, features, bidirectional=True)
        self.read = nn.LSTMCell(2 * features, features)
        self.steps = steps

    def forward(
        self, support: torch.Tensor, query: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of support and query, shaped as they are.

        Args:
            support: (n_support, d) features, in the canonical order.
            query: (n_query, d) features; each row is embedded as if there were no others.
        """
        hidden, _ = self.over_support(support)
        forward, backward = hidden.chunk(2, dim=1)
        memory = forward + backward + support
        h, c = torch.zeros_like(query), torch.zeros_like(query)
        for _ in range(self.steps):
            looks_at = torch.softmax(h @ memory.T * memory.shape[1] ** -0.5, dim=1)
            seen = torch.cat([query, looks_at @ memory], dim=1)
            out, c = self.read(seen, (h, c))
            h = out + query
        return memory, h


def in_canonical_order(examples: Examples) -> Examples:
    """Return the examples in the order of the bytes of their images."""
    content = [image.tobytes() for image in examples.images.cpu().numpy()]
    rows = sorted(range(len(content)), key=content.__getitem__)
    return Examples(examples.images[rows], examples.labels[rows], examples.n_way)


def build_context(features: int, steps: int, seed: int) -> FullContext:
    """Build the networks; their initial weights depend on ``seed`` alone.

    Raises:
        ConfigError: The body has too many features: the networks grow with their square.
    """
    if features > MOST_FEATURES:
        raise ConfigError(
            f"full_context with {features:,} features",
            expected=f"at most {MOST_FEATURES:,}, since its networks grow with their square",
            where="learner.full_context",
            next_step="Lower model.filters or model.image_size, or take model resnet.",
        )
    with seeded(seed):
        return FullContext(features, steps)


def embedded(
    own: Tensors, support: torch.Tensor, query: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings under the networks' leaves ``own``; see :class:`FullContext`."""
    with torch.device("meta"):  # the leaves are given: the module's own need no memory
        networks = FullContext(support.shape[1], steps)
    embeddings: tuple[torch.Tensor, torch.Tensor] = functional_call(networks, own, (support, query))
    return embeddings
