"""Company: does what one patient adds stay the same, to the last bit, whoever else is drawn?

The proofs of patient DP-SGD let one patient more add one vector. Where the last bits of the others'
vectors depend on how many are computed together, that patient moves those too: by less than the
clip's margin as a rule, and by any amount under meta-parameters that raise rounding. Which order a
convolution sums in depends on processor, threads and size, so this is asked where a site runs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.noised import public_head
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.tasks import Task
from metaward_client.privacy.class_sums import class_vectors
from metaward_client.privacy.cohort import Cohort, Sample
from metaward_client.privacy.patient_gradients import features_of_each, patient_gradients
from metaward_client.privacy_audit.findings import Finding, verdict_of

Vectors = Callable[[Task], Tensors]
"""A task with one image of each patient -> leaf name -> (n_patients, *shape): what each adds."""

SIZES = (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)
"""Patients that are computed together; beside everybody alone."""
LABELS = ("a", "b", "c")


def product_vectors(body: Body) -> dict[str, Vectors]:
    """Return what patients add before it is clipped, as the product computes it from their images.

    The images by themselves too, as they are prepared: a network may hide there what it would show
    under other meta-parameters.
    """
    theta = body.initial_parameters()
    head = public_head(body.features, range(len(LABELS)), len(LABELS), 0)
    at = Parameters(theta, head)

    def gradients(examples: Examples) -> Tensors:
        return patient_gradients(body, at, examples, [1] * len(examples.labels))[0]

    def sums(examples: Examples) -> Tensors:
        features = features_of_each(body, theta, examples.images)
        return class_vectors(features, examples, [1] * len(examples.labels))

    def images(examples: Examples) -> Tensors:
        return {"image": examples.images}

    return {
        "images": lambda task: _over_batches(images, task),
        "gradients": lambda task: _over_batches(gradients, task),
        "class sums": lambda task: _over_batches(sums, task),
    }


def _over_batches(of_examples: Callable[[Examples], Tensors], task: Task) -> Tensors:
    """Return what patients add, as many together as one noised sum has room for."""
    everybody = Sample(np.arange(task.n_patients), np.full(task.n_patients, 0.5), 1, "none")
    batches = everybody.batches(Cohort.of(task, task.label_names), range(len(LABELS)))
    found = [of_examples(examples) for examples, _ in batches]
    return {name: torch.cat([leaves[name] for leaves in found]) for name in found[0]}


def most_moved(vectors: Vectors, image: tuple[int, int, int], rng: np.random.Generator) -> float:
    """Return how far company moves what a patient adds, at most, over its length.

    Infinity where what a patient adds is not finite: then nothing was compared.

    Args:
        vectors: What is asked.
        image: (channels, height, width).
        rng: Of the images.
    """
    images = discs(max(SIZES), image, rng)
    everybody = _rows(vectors, images, range(len(images)))
    seen = [(who, _rows(vectors, images, who)) for who in _companies()]
    if not all(bool(rows.isfinite().all()) for rows in (everybody, *(rows for _, rows in seen))):
        return math.inf
    return max(float(_moved(rows, everybody[list(who)]).max()) for who, rows in seen)


def _companies() -> Iterator[Sequence[int]]:
    """Yield who is computed together: each alone, the first few, and all the other way round."""
    for patient in range(max(SIZES)):
        yield (patient,)
    for n in SIZES:
        yield range(n)
    yield range(max(SIZES))[::-1]


def _rows(vectors: Vectors, images: np.ndarray, who: Sequence[int]) -> torch.Tensor:
    """Return what each of these patients adds, (n_patients, n_numbers) float64."""
    n = len(who)
    labels = np.array(who) % len(LABELS)
    leaves = vectors(Task("audit", images[list(who)], labels, np.arange(n), LABELS))
    return torch.cat([leaf.double().flatten(1) for leaf in leaves.values()], dim=1)


def discs(n: int, image: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Return n grey discs on black, as an organ on its background, in float16.

    A sum over such an image often lies in the middle between two float32 numbers, where the order
    of summing decides which it will be (17 of 60 at 256 x 256; of noise over the whole image none).
    """
    _, height, width = image
    y, x = np.mgrid[:height, :width]
    outside = np.hypot(y - height / 2, x - width / 2) > 0.23 * min(height, width)
    images = rng.uniform(0.6, 1.0, (n, *image))
    images[:, :, outside] = 0
    return images.astype(np.float16)


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
        done=f"Between 1 and {max(SIZES)} patients were computed together, from their images on, "
        "and what each added was compared.",
        seen="Nothing moved." if worst == 0 else f"It moved by up to {worst:.1e} of its length.",
        verdict=verdict_of(worst == 0),
        figures=dict(moved),
    )
