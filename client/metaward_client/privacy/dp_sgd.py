"""Patient DP-SGD: what a learner is given instead of data.

Abadi et al. 2016, arXiv:1607.00133, algorithm 1, with patients for examples:

    S = {p : U_p < q} over all patients
    g_p = mean over at most m of the patient's own images of grad loss(phi), over the body
    answer = (sum_S w_p g_p min(1, C / |g_p|) + N(0, (sigma C)^2 I)) / (q N0),   w_p in [0, 1]

A patient adds one vector of norm at most C to each answer, whatever phi is; the divisor is public.
So each answer is one Poisson-subsampled Gaussian mechanism under adding or removing one patient,
and everything that a learner makes of the answers is post-processing (docs/threat-model.md).

That holds only if g_p is a function of phi, of patient p and of randomness of p's own: each
patient's images are chosen and changed with a stream of their own. The gradients are computed
together (:mod:`metaward_client.privacy.patient_gradients`), in a small part of the time of one
after the other. Then not a bit of a patient's vector may depend on who is computed with it: a
coordinator can choose phi so that last bits become the whole vector, which no margin of the clip
covers. How that is kept, and where it was measured: ``FILLED_TO`` there,
:mod:`metaward_client.privacy.one_thread`; docs/threat-model.md, E.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from metaward.arrays import Tensors
from metaward.errors import PrivacyError
from metaward.learner_settings import Augment
from metaward.meta.noised import ClassSums
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward_client.privacy.class_sums import PatientClassSums
from metaward_client.privacy.cohort import Cohort, Sample
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums
from metaward_client.privacy.patient_gradients import patient_gradients, refuse_shared_statistics
from metaward_client.privacy.poisson import poisson_sample
from metaward_client.privacy.round_memory import RoundMemory, pooled


@dataclass
class PatientAnswers:
    """The :class:`~metaward.meta.noised.NoisedAnswers` of one site and round.

    Attributes:
        body: The network.
        cohort: All patients.
        sums: Adds the noise and counts the answers.
        images_per_patient: m.
        augment: How an image is changed; each patient's images by themselves.
        memory: Class sums of the study's earlier rounds, to which this round's are added.
        loss: Mean loss of the patients drawn last, for the site's own log; never leaves.
    """

    body: Body
    cohort: Cohort
    sums: NoisedSums
    images_per_patient: int
    augment: Augment
    memory: RoundMemory = field(default_factory=RoundMemory)
    loss: float = float("nan")

    def __post_init__(self) -> None:
        refuse_shared_statistics(self.body)

    def gradient(
        self, at: Parameters, classes: Sequence[int], weights: torch.Tensor | None = None
    ) -> Tensors:
        """Return a noised mean gradient; see :class:`metaward.meta.noised.NoisedAnswers`."""
        total = clipped_sum(self, at, self.sample(), classes, weights=weights)
        shapes = {name: tuple(leaf.shape) for name, leaf in at.body.items()}
        noised = self.sums.release(total, shapes)
        return {name: torch.from_numpy(leaf.astype(np.float32)) for name, leaf in noised.items()}

    def class_sums(self, theta: Tensors) -> ClassSums:
        """Return noised class sums, pooled over the study's rounds.

        See :class:`metaward.meta.noised.NoisedAnswers`.
        """
        new = PatientClassSums(self.body, self.cohort, self.sums)(theta, self.sample())
        self.memory.sums = pooled(self.memory.sums, new)
        return self.memory.sums.mean()

    def sample(self) -> Sample:
        """Draw the patients of one answer, and what starts each patient's own stream."""
        source, everybody = self.sums.source, self.cohort.n_patients
        drawn = poisson_sample(everybody, self.sums.terms.sample_rate, source)
        seeds = source.uniforms(everybody)  # one for each, drawn or not
        return Sample(drawn, seeds, self.images_per_patient, self.augment)


def clipped_sum(
    site: PatientAnswers,
    at: Parameters,
    sample: Sample,
    classes: Sequence[int],
    *,
    weights: torch.Tensor | None = None,
) -> ClippedSum:
    """Return the sum of the drawn patients' clipped gradients; the sum over nobody is zero.

    Args:
        site: Cohort and body.
        at: Where: parameters of the body, and a head that is held still.
        sample: Who is drawn.
        classes: Of the head's rows. A patient without an image of them adds nothing.
        weights: (n_way,) in [0, 1]; a patient's clipped vector is multiplied with their mean over
            the patient's images. Left out: 1.

    Raises:
        PrivacyError: A weight is not in [0, 1], or there is not one for each class; whoever is
            drawn, so that it says nothing about them.
    """
    if weights is not None:
        _require_weights(weights, len(classes))
    shapes = {name: tuple(leaf.shape) for name, leaf in at.body.items()}
    total = ClippedSum.empty(shapes, site.sums.max_grad_norm)
    losses: list[float] = []
    for examples, images_of_each in sample.batches(site.cohort, classes):
        gradients, loss = patient_gradients(site.body, at, examples, images_of_each)
        vectors = {name: gradient.numpy() for name, gradient in gradients.items()}
        if weights is None:
            total.add(vectors)
        else:
            of_image = weights[examples.labels].double().numpy()
            first = np.cumsum([0, *images_of_each[:-1]])
            total.add(vectors, np.add.reduceat(of_image, first) / images_of_each)
        losses += loss.tolist()
    site.loss = float(np.mean(losses)) if losses else float("nan")
    return total


def _require_weights(weights: torch.Tensor, n_way: int) -> None:
    if weights.shape != (n_way,) or not bool(((weights >= 0) & (weights <= 1)).all()):
        raise PrivacyError(
            "weights of which a patient's clipped vector could be longer than the clip norm",
            expected=f"{n_way} numbers from 0 to 1",
            where="the learner",
            next_step="Report this: nothing was released.",
        )
