"""Company: does what one patient adds stay the same, to the last bit, whoever else is drawn?

The proofs of patient DP-SGD let one patient more add one vector. Where the last bits of the others'
vectors depend on how many are computed together, that patient moves those too: by less than the
clip's margin as a rule, and by any amount under meta-parameters that raise rounding. Which order a
convolution sums in depends on processor, threads and size, so this is asked where a site runs.
"""

import math
from collections.abc import Callable, Mapping

import torch

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.noised import public_head
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward_client.privacy.class_sums import class_vectors
from metaward_client.privacy.patient_gradients import filled, patient_gradients
from metaward_client.privacy_audit.findings import Finding, verdict_of

Vectors = Callable[[Examples], Tensors]
"""Images, each of a patient of its own -> leaf name -> (n_patients, *shape): what each adds."""

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)
"""Patients that are computed together."""
N_LABELS = 3


def product_vectors(body: Body) -> dict[str, Vectors]:
    """Return what patients add before it is clipped, as the product computes it."""
    theta = body.initial_parameters()
    head = public_head(body.features, range(N_LABELS), N_LABELS, 0)
    at = Parameters(theta, head)

    def gradients(examples: Examples) -> Tensors:
        return patient_gradients(body, at, examples, [1] * len(examples.labels))[0]

    def sums(examples: Examples) -> Tensors:
        n = len(examples.labels)
        with torch.no_grad():
            features = body.apply_with(theta, filled(examples.images))[:n]
        return class_vectors(features, examples, [1] * n)

    return {"gradients": gradients, "class sums": sums}


def most_moved(vectors: Vectors, image: tuple[int, int, int], rng: torch.Generator) -> float:
    """Return how far company moves what a patient adds, at most, over its length.

    Infinity where what a patient adds is not finite: then nothing was compared.

    Args:
        vectors: What is asked.
        image: (channels, height, width).
        rng: Of the images.
    """
    images = torch.rand((max(SIZES), *image), generator=rng)
    labels = torch.arange(max(SIZES)) % N_LABELS
    seen: list[torch.Tensor] = []
    for n in SIZES:
        leaves = vectors(Examples(images[:n], labels[:n], N_LABELS))
        seen.append(torch.cat([leaf.double().flatten(1) for leaf in leaves.values()], dim=1))
    everybody = seen[-1]
    if not all(bool(one.isfinite().all()) for one in seen):
        return math.inf
    return max(float(_moved(one, everybody[: len(one)]).max()) for one in seen)


def _moved(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return how far rows lie apart over their length; 0 where they are equal, also of length 0."""
    apart = (one - other).norm(dim=1)
    return torch.where(apart == 0, 0.0, apart / other.norm(dim=1))


def company_finding(moved: Mapping[str, float]) -> Finding:
    """Say whether anything moved."""
    worst = max(moved.values())
    return Finding(
        check="company in a batch",
        question="Does what one patient adds stay the same, to the last bit, whoever is drawn?",
        done=f"Between 1 and {max(SIZES)} patients were computed together, and what each added was "
        "compared.",
        seen="Nothing moved." if worst == 0 else f"It moved by up to {worst:.1e} of its length.",
        verdict=verdict_of(worst == 0),
        figures=dict(moved),
    )
