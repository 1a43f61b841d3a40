"""Gradient inversion: can the image be drawn again from what leaves?

Zhu, Liu and Han 2019, arXiv:1906.08935 (DLG): search for an image whose gradient is the one that
was seen. The distance is one minus the cosine, the optimiser Adam (Geiping et al. 2020,
arXiv:2003.14053), which serves networks with ReLU. The label is given to the attacker, and it is
the easiest case: one patient with one image. A figure, no proof.
"""

import math

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F

from metaward.arrays import Tensors
from metaward.meta.head import Head
from metaward.models.body import Body
from metaward.privacy_promise import DP_SGD
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums, Normals
from metaward_client.privacy.terms import Terms
from metaward_client.privacy_audit.findings import Finding, Verdict

STEP_SIZE = 0.1


def gradient_of(
    body: Body, theta: Tensors, head: Head, image: torch.Tensor, label: int, *, keep: bool = False
) -> list[torch.Tensor]:
    """Return the body's gradient of one image's loss; with ``keep`` it can be differentiated.

    The head's is not for an attacker to see: no head ever leaves.
    """
    leaves = [leaf.detach().requires_grad_() for leaf in theta.values()]
    features = functional_call(body, dict(zip(theta, leaves, strict=True)), (image,))
    loss = F.cross_entropy(head(features), torch.tensor([label]))
    return list(torch.autograd.grad(loss, leaves, create_graph=keep))


def private_gradient(
    gradient: list[torch.Tensor], noise_multiplier: float, max_grad_norm: float, source: Normals
) -> list[torch.Tensor]:
    """Return one patient's gradient as the product would release it, with nobody else to hide."""
    terms = Terms(DP_SGD, noise_multiplier, 1.0, 1, max_grad_norm, divisor=1.0)
    shapes = {str(i): tuple(leaf.shape) for i, leaf in enumerate(gradient)}
    total = ClippedSum.empty(shapes, max_grad_norm)
    total.add({str(i): leaf.numpy()[None] for i, leaf in enumerate(gradient)})
    released = NoisedSums(terms, source, max_grad_norm).release(total, shapes)
    return [torch.from_numpy(leaf.astype(np.float32)) for leaf in released.values()]


def invert(
    body: Body,
    theta: Tensors,
    head: Head,
    seen: list[torch.Tensor],
    label: int,
    shape: tuple[int, ...],
    *,
    steps: int,
) -> torch.Tensor:
    """Return the image, of ``shape``, whose gradient points most nearly where ``seen`` does."""
    guess = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=STEP_SIZE)
    target = torch.cat([leaf.flatten() for leaf in seen])
    for _ in range(steps):
        optimiser.zero_grad()
        mine = gradient_of(body, theta, head, guess, label, keep=True)
        flat = torch.cat([leaf.flatten() for leaf in mine])
        distance = 1 - F.cosine_similarity(flat, target, dim=0, eps=1e-12)
        (guess.grad,) = torch.autograd.grad(distance, [guess])
        optimiser.step()
    return guess.detach()


def psnr(image: torch.Tensor, guess: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB after the best shift and scale of the guess."""
    x, y = guess.flatten().double(), image.flatten().double()
    x = x - x.mean()
    slope = (x @ (y - y.mean())) / (x @ x).clamp_min(1e-12)
    error = float(torch.mean((slope * x + y.mean() - y) ** 2))
    peak = float(y.max() - y.min())
    return 10 * math.log10(max(peak, 1e-12) ** 2 / max(error, 1e-12))


def inversion_finding(plain: float, private: float, blank: float) -> Finding:
    """Tell the figures; they are no proof."""
    return Finding(
        check="gradient inversion",
        question="Can an image be drawn again from what leaves?",
        done="A search for the image whose gradient is the one that was seen, for one patient "
        "with one image and a known label: once from the raw gradient, once from the release.",
        seen=f"Likeness to the image: {plain:.1f} dB from the raw gradient, {private:.1f} dB from "
        f"the release; an even grey has {blank:.1f} dB.",
        verdict=Verdict.NOT_SHOWN,
        figures={"psnr_raw": plain, "psnr_private": private, "psnr_grey": blank},
    )
