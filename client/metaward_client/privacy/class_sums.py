"""Noised sums of features by label: what prototypes can be made of without giving a patient away.

    v_p = mean over at most m of the patient's own images of  e_y (x) (a f / max(|f|, sqrt(d)), b)
    answer = (sum over the sample of C v_p + N(0, (sigma C)^2 I)) / (q N0)

with f the d features of an image under theta, y its label, and a^2 + b^2 = 1. Each image's vector
has norm at most 1, so v_p has, whatever theta is: one patient adds one vector of norm at most C, as
to a noised gradient, and the answer is the same mechanism at the same price. The length sqrt(d)
is that of features whose mean square is 1, which is about where a group norm leaves them.
"""

import math
from dataclasses import dataclass

import torch

from metaward.arrays import Tensors
from metaward.episodes import Examples
from metaward.meta.noised import ClassSums
from metaward.models.body import Body
from metaward_client.privacy.cohort import Cohort, Sample
from metaward_client.privacy.noised_sum import ClippedSum, NoisedSums
from metaward_client.privacy.patient_gradients import features_of_each

PATIENT_PART = 0.3
"""b: how much of a patient's vector counts the patient. With more, counts are surer and features
less so; here a count's noise is 3.3 sigma patients."""
FEATURE_PART = math.sqrt(1 - PATIENT_PART**2)
FEATURES, PATIENTS = "features", "patients"


@dataclass(frozen=True)
class PatientClassSums:
    """Makes noised class sums, one for each call.

    Attributes:
        body: The network.
        cohort: All patients.
        sums: Adds the noise and counts the answers.
    """

    body: Body
    cohort: Cohort
    sums: NoisedSums

    def __call__(self, theta: Tensors, sample: Sample) -> ClassSums:
        """Return the noised sums over a sample, in shares of the public population."""
        shapes = {
            FEATURES: (self.cohort.n_labels, self.body.features),
            PATIENTS: (self.cohort.n_labels,),
        }
        norm = self.sums.max_grad_norm
        total = ClippedSum.empty(shapes, norm)
        for examples, images_of_each in sample.batches(self.cohort, range(self.cohort.n_labels)):
            features = features_of_each(self.body, theta, examples.images)
            vectors = class_vectors(features, examples, images_of_each)
            total.add({name: norm * leaf.numpy() for name, leaf in vectors.items()})
        noised = self.sums.release(total, shapes, moves_norm=False)
        answer = {name: torch.from_numpy(leaf).float() for name, leaf in noised.items()}
        unit = math.sqrt(self.body.features) / (FEATURE_PART * norm)
        return ClassSums(answer[FEATURES] * unit, answer[PATIENTS] / (PATIENT_PART * norm))


def class_vectors(
    features: torch.Tensor, examples: Examples, images_of_each: list[int]
) -> dict[str, torch.Tensor]:
    """Return each patient's v_p: features (n_patients, n_way, d) and patients (n_patients, n_way).

    In float64: the length of features above 1e19 would overflow in float32, and where it does so
    could then hang on the last bits of a feature, which are a matter of the batch.

    Args:
        features: (n_images, d).
        examples: Whose labels say the class; one patient after the other.
        images_of_each: How many images are whose.
    """
    features = features.double()
    n_patients, n_way, d = len(images_of_each), examples.n_way, features.shape[1]
    counts = torch.tensor(images_of_each)
    owner = torch.repeat_interleave(torch.arange(n_patients), counts)
    place = owner * n_way + examples.labels
    share = 1.0 / counts[owner].double()
    lengths = torch.linalg.vector_norm(features, dim=1).clamp_min(math.sqrt(d))
    bounded = FEATURE_PART * features * (share / lengths)[:, None]
    by_class = features.new_zeros(n_patients * n_way, d).index_add_(0, place, bounded)
    present = features.new_zeros(n_patients * n_way).index_add_(0, place, PATIENT_PART * share)
    return {
        FEATURES: by_class.view(n_patients, n_way, d),
        PATIENTS: present.view(n_patients, n_way),
    }
