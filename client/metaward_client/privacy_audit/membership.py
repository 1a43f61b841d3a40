"""Membership inference: who was in the sum? The likelihood-ratio attack in its light form.

Carlini et al. 2022, arXiv:2112.03570 (LiRA): the attacker knows every patient's gradient and has
seen many releases of known membership. Per patient, the projection of a release on that gradient
is fitted by a normal for "in" and one for "out"; new releases are scored by the likelihood ratio.
A figure, no proof: an attack that fails shows nothing about other attacks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaward.meta.noised import public_head
from metaward.meta.parameters import Parameters
from metaward.models.body import Body
from metaward.tasks import Task
from metaward_client.privacy.noised_sum import Normals
from metaward_client.privacy_audit.findings import Finding, Verdict
from metaward_client.privacy_audit.released_sums import answers_without_noise, wide
from metaward_client.privacy_audit.unit_release import Release

NO_CLIP = 1.0e9
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class AttackResult:
    """How well members were told.

    Attributes:
        auc: Area under the ROC curve; 0.5 is guessing.
        caught: Share of members found at 1% false alarms.
        false_rates: (50,) of the ROC curve.
        true_rates: (50,).
    """

    auc: float
    caught: float
    false_rates: NDArray[np.float64]
    true_rates: NDArray[np.float64]


def patient_vectors(body: Body, task: Task) -> NDArray[np.float64]:
    """Return each patient's gradient at the body's first parameters, (n_patients, dimensions)."""
    labels = task.label_names
    classes = range(len(labels))
    head = public_head(body.features, classes, len(labels), seed=0)
    at = Parameters(body.initial_parameters(), head)
    vectors = []
    for number in np.unique(task.patients):
        rows = np.flatnonzero(task.patients == number)
        own = Task(
            task.site,
            np.asarray(task.images[rows], dtype=np.float32),
            task.labels[rows],
            np.zeros(len(rows), dtype=np.int64),
            labels,
        )
        answer = answers_without_noise(body, own, labels, NO_CLIP).gradient(at, classes)
        vectors.append(np.concatenate([leaf.ravel() for leaf in wide(answer).values()]))
    return np.array(vectors)


def plain_release(records: NDArray[np.float64], source: Normals) -> NDArray[np.float64]:  # noqa: ARG001 (signature of a release)
    """Return what leaves without a mechanism: the mean, as it is."""
    mean: NDArray[np.float64] = records.mean(axis=1).mean(axis=0)
    return mean


def attack(
    release: Release,
    vectors: NDArray[np.float64],
    source: Normals,
    rng: np.random.Generator,
    *,
    runs: int,
) -> AttackResult:
    """Attack releases over random halves of the patients; the first half of ``runs`` trains."""
    included = rng.random((runs, len(vectors))) < 0.5
    included[:, 0] |= ~included.any(axis=1)
    scores = np.array(
        [vectors @ release(vectors[chosen][:, None, :], source) for chosen in included]
    )
    half = runs // 2
    ratios = np.column_stack(
        [
            _log_ratio(scores[:half, i], included[:half, i], scores[half:, i])
            for i in range(len(vectors))
        ]
    )
    return _result(ratios[included[half:]], ratios[~included[half:]])


def _log_ratio(
    known: NDArray[np.float64], member: NDArray[np.bool_], new: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the log-likelihood ratio of two normals with one variance."""
    inside, outside = known[member].mean(), known[~member].mean()
    variance = 0.5 * (known[member].var() + known[~member].var()) + 1e-30
    ratio: NDArray[np.float64] = (inside - outside) * (new - 0.5 * (inside + outside)) / variance
    return ratio


def _result(members: NDArray[np.float64], others: NDArray[np.float64]) -> AttackResult:
    from scipy.stats import mannwhitneyu

    statistic = float(mannwhitneyu(members, others).statistic)
    false_rates = np.linspace(0, 1, 50)
    thresholds = np.quantile(others, 1 - false_rates)
    true_rates = np.array([np.mean(members > threshold) for threshold in thresholds])
    caught = float(np.mean(members > np.quantile(others, 1 - FALSE_ALARMS)))
    return AttackResult(statistic / (len(members) * len(others)), caught, false_rates, true_rates)


def membership_finding(plain: AttackResult, private: AttackResult) -> Finding:
    """Tell the figures; they are no proof."""
    return Finding(
        check="membership inference",
        question="How well can somebody who knows a patient's images tell whether the patient "
        "took part?",
        done="A likelihood-ratio attack on single releases, with everybody's gradient known to "
        "the attacker: once on the plain mean, once on one noised sum as the policy makes it.",
        seen=f"Without a mechanism {100 * plain.caught:.0f}% of those who took part were found at "
        f"1% false alarms (area under the curve {plain.auc:.2f}); with it "
        f"{100 * private.caught:.1f}% ({private.auc:.2f}; guessing is 1% and 0.50).",
        verdict=Verdict.NOT_SHOWN,
        figures={
            "auc_without": plain.auc,
            "auc_private": private.auc,
            "tpr_at_1_percent_fpr_without": plain.caught,
            "tpr_at_1_percent_fpr_private": private.caught,
        },
    )
