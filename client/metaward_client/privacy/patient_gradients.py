"""Each patient's gradient, all of a batch in one pass: one layer's rule after another.

With params held still, one backward pass gives the gradient g of the loss at every layer's output.
A layer's own gradient then follows from g and the layer's input x, image by image, before anything
is summed over a batch (Goodfellow 2015, arXiv:1510.01799; Opacus, arXiv:2109.12298, section 3):

    convolution   grad W_i = g_i unfold(x_i)^T          (Rochette et al. 2019, arXiv:1912.06015)
    group norm    grad scale_i = sum over positions of g_i x^_i,   grad shift_i = sum of g_i

A patient's gradient is the sum over that patient's images, each weighed by one over their number.
Nothing crosses from one image to another, so a network needs layers that treat each image alone:
:func:`refuse_shared_statistics` turns others away. And it needs a rule for each layer with
parameters, and nothing that is changed in place: :func:`require_rules` looks for the rules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.errors import PrivacyError
from metaward.meta.head import Head
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.models.group_norm import GroupNorm
from metaward_client.privacy.one_thread import one_thread

FILLED_TO = 8
"""A pass has a multiple of so many images, to its end; the rest are blank and nobody's.

What an image gives must not depend on how many are beside it, or one patient more would change what
another adds. In a pass of one image convolutions and products sum in another order than in one of
several (oneDNN, MKL), by less than the clip's margin, but theta can be made so that nothing but
rounding is left, which norms then raise to any size. In passes of multiples of eight they do not
where one thread computes (`one_thread`), which a test asks. Also, oneDNN prepares each convolution
anew for every new number of images.
"""
FEW_CHANNELS = 8
"""Below it a patch is copied along rows of the image, from it on along its channels."""
MIXES_PATIENTS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)

Seen = tuple[str, nn.Module, torch.Tensor, torch.Tensor]
"""One pass through one layer: its name, itself, its input and its output."""
Sums = Callable[[torch.Tensor], torch.Tensor]
"""From a number for each image to the sum for each patient, (n_images, *) to (n_patients, *)."""
Rule = Callable[[torch.Tensor, torch.Tensor, Sums], Tensors]
"""One layer's gradient for each patient, from the layer's input and the gradient at its output."""


@one_thread()
def patient_gradients(
    body: Body, at: Parameters, examples: Examples, images_of_each: Sequence[int]
) -> tuple[Tensors, torch.Tensor]:
    """Return each patient's gradient with respect to the body, and loss.

    Args:
        body: The network.
        at: Its parameters, and a head that is held still.
        examples: Images of one patient after the other.
        images_of_each: How many of them are whose; at least one each. A patient's loss is the mean
            cross-entropy of that patient's own.

    Returns:
        Leaf name -> (n_patients, *shape), and (n_patients,).

    Raises:
        PrivacyError: The network has a layer whose gradient there is no rule for.
    """
    still = {name: leaf.detach() for name, leaf in at.body.items()}
    counts, n_patients, n = torch.tensor(images_of_each), len(images_of_each), len(examples.labels)
    owner = torch.repeat_interleave(torch.arange(n_patients), counts)
    images = filled(examples.images)
    labels, weights = F.pad(examples.labels, (0, len(images) - n)), images.new_zeros(len(images))
    weights[:n] = counts[owner].to(weights.dtype).reciprocal()
    with torch.enable_grad(), _watched(body) as seen:
        features = functional_call(body, still, (images,))
        logits = logits_of_each(features, at.head)
        losses = F.cross_entropy(logits, labels, reduction="none") * weights
        at_outputs = torch.autograd.grad(losses.sum(), [output for *_, output in seen])
    found: Tensors = {}

    def of_each(per_image: torch.Tensor) -> torch.Tensor:
        return _per_patient(per_image[:n], owner, n_patients)

    for (name, layer, entered, _), at_output in zip(seen, at_outputs, strict=True):
        for leaf, gradient in _rule_for(layer)(entered, at_output, of_each).items():
            key = f"{name}.{leaf}"  # a layer may be passed through more than once
            found[key] = found[key] + gradient if key in found else gradient
    return {name: found[name] for name in at.body}, of_each(losses.detach())


def logits_of_each(features: torch.Tensor, head: Head) -> torch.Tensor:
    """Return logits (n, n_way) from features (n, n_features), each row by a product of its own.

    One product of matrices, the usual way, has a row's last bits hang on how many rows there are:
    with a few columns MKL sums in another order up to 10 rows under AVX-512, and for the rows that
    are left over of 6 under AVX2.
    """
    each = head.weight.mT.expand(len(features), -1, -1)
    return torch.bmm(features.unsqueeze(1), each).squeeze(1) + head.bias


@one_thread()
@torch.no_grad()
def features_of_each(body: Body, theta: Tensors, images: torch.Tensor) -> torch.Tensor:
    """Return features (n, n_features) of images, each as if alone."""
    return body.apply_with(theta, filled(images))[: len(images)]


def filled(images: torch.Tensor) -> torch.Tensor:
    """Return the images and blank ones behind them, in all a multiple of `FILLED_TO`."""
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, -len(images) % FILLED_TO))


def refuse_shared_statistics(body: nn.Module) -> None:
    """Refuse a network in which one patient's images change another's features.

    Raises:
        PrivacyError: A layer that takes statistics over a batch, or any buffer: state that would
            pass from patient to patient without noise.
    """
    mixing = [type(part).__name__ for part in body.modules() if isinstance(part, MIXES_PATIENTS)]
    if mixing or next(body.buffers(), None) is not None:
        raise PrivacyError(
            f"a network with {mixing[0] if mixing else 'buffers'}",
            expected="no batch statistics and no buffers: they mix patients, unclipped",
            where="the study's model",
            next_step="Use GroupNorm.",
        )


def require_rules(body: nn.Module) -> None:
    """Check that every parameter belongs to a layer with a rule.

    Raises:
        PrivacyError: One does not.
    """
    for _, layer in _layers(body):
        _rule_for(layer)


@contextmanager
def _watched(body: nn.Module) -> Iterator[list[Seen]]:
    """Note what enters and leaves each layer with parameters, while the context is open.

    What leaves the first layer depends on nothing that has a gradient, since parameters are held
    still; it is made a leaf, so that a graph starts there.
    """
    seen: list[Seen] = []

    def note(
        name: str, layer: nn.Module, entered: tuple[torch.Tensor], output: torch.Tensor
    ) -> None:
        if not output.requires_grad:
            output.requires_grad_()
        seen.append((name, layer, entered[0].detach(), output))

    handles = [layer.register_forward_hook(partial(note, name)) for name, layer in _layers(body)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _layers(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in body.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            yield name, layer


def _per_patient(per_image: torch.Tensor, owner: torch.Tensor, n_patients: int) -> torch.Tensor:
    """Sum (n_images, *shape) to (n_patients, *shape)."""
    if len(owner) == n_patients:  # one image each, in order
        return per_image
    total = per_image.new_zeros((n_patients, *per_image.shape[1:]))
    return total.index_add_(0, owner, per_image)


def _rule_for(layer: nn.Module) -> Rule:
    """Return the rule of a layer's kind; of exactly that kind, since a subclass may do otherwise.

    Raises:
        PrivacyError: There is none.
    """
    kind = type(layer)
    match layer:
        case nn.Conv2d(
            padding=(int(above), int(left)), groups=1, dilation=(1, 1), padding_mode="zeros"
        ) if kind is nn.Conv2d:
            return partial(_convolution, layer, (above, left))
        case nn.GroupNorm() if kind in (nn.GroupNorm, GroupNorm):
            return partial(_group_norm, layer)
        case _:
            raise PrivacyError(
                f"a network with a {kind.__name__} whose gradient has no rule",
                expected="2d convolutions without groups and dilation, padded by numbers of "
                "zeros, and group norms",
                where="the study's model",
                next_step="Choose another model, or privacy.mechanism block.",
            )


def _convolution(
    layer: nn.Conv2d,
    padding: tuple[int, int],
    entered: torch.Tensor,
    at_output: torch.Tensor,
    of_each: Sums,
) -> Tensors:
    """Return each patient's gradient of weight and bias."""
    patches = _patches(entered, layer.kernel_size, layer.stride, padding)
    n, fan_out = at_output.shape[:2]
    at_positions = at_output.permute(0, 2, 3, 1).reshape(n, -1, fan_out)
    weight = of_each(torch.bmm(patches.transpose(1, 2), at_positions))
    weight = weight.view(-1, *layer.kernel_size, layer.in_channels, fan_out)
    gradients = {"weight": weight.permute(0, 4, 3, 1, 2)}
    if layer.bias is not None:
        gradients["bias"] = of_each(at_output.sum(dim=(2, 3)))
    return gradients


def _patches(
    entered: torch.Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, int],
) -> torch.Tensor:
    """Return (n, positions, kernel height * kernel width * fan_in).

    That is ``F.unfold``, as one copy of a view of windows, by the longer runs of memory: along a
    row of the image where there are few channels, along the channels where there are many.
    """
    above, left = padding
    windows = F.pad(entered, (left, left, above, above))
    windows = windows.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    n, fan_in, height, width = windows.shape[:4]
    positions, entries = height * width, kernel[0] * kernel[1] * fan_in
    if fan_in < FEW_CHANNELS:
        return windows.permute(0, 4, 5, 1, 2, 3).reshape(n, entries, positions).transpose(1, 2)
    return windows.permute(0, 2, 3, 4, 5, 1).reshape(n, positions, entries)


def _group_norm(
    layer: nn.GroupNorm, entered: torch.Tensor, at_output: torch.Tensor, of_each: Sums
) -> Tensors:
    """Return each patient's gradient of scale and shift."""
    normed = F.group_norm(entered, layer.num_groups, eps=layer.eps)
    return {
        "weight": of_each(normed.mul_(at_output).sum(dim=(2, 3))),
        "bias": of_each(at_output.sum(dim=(2, 3))),
    }
