"""What an adapted model is right in, on the hospital's own patients whom it has not seen.

Patients are dealt into folds (Stone 1974, J. R. Stat. Soc. B 36:111). For each fold a model adapts
on images of the other folds' patients, as many of each label as the model that is kept does, and
names every image of the patients left out. So each labelled image is named once, by a model that
adapted on no image of its patient. A shared model that was trained on these patients has seen them
all the same, and figures are then too good. With few patients the models of the folds adapt on
fewer images than the one that is kept, and are if anything less often right.

Intervals count patients, and not images (metaward.intervals), and that of the mean over labels a
patient with several of them once. They speak of other patients asked; what it would change to have
labelled other patients is not in them.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from metaward.clustered_variance import Draws
from metaward.config import Settings
from metaward.episodes import Examples
from metaward.intervals import Estimate, clustered_mean, mean_over_findings
from metaward.labelled_support import labelled_support
from metaward.meta.classifier import Classifier
from metaward.scoring import class_scores, is_correct
from metaward.tasks import Task

MOST_FOLDS = 5
DEALS_BEFORE_GIVING_UP = 20
AT_ONCE = 64
"""Images that a classifier is shown at once."""


class FindingCheck(Settings):
    """How often images of one label were named rightly."""

    label: str
    right: int = Field(ge=0)
    images: int = Field(ge=1)
    patients: int = Field(ge=1)
    share: float = Field(ge=0, le=1, description="right of images")
    ci95: tuple[float, float]


class LeftOutCheck(Settings):
    """How often images of patients left out were named rightly."""

    folds: int = Field(ge=2)
    findings: tuple[FindingCheck, ...]
    share: float = Field(ge=0, le=1, description="mean over the labels")
    ci95: tuple[float, float]


def check_left_out(
    task: Task,
    adapt: Callable[[Examples], Classifier],
    *,
    most: int,
    rng: np.random.Generator,
) -> LeftOutCheck | None:
    """Return how often images of patients left out are named rightly.

    Args:
        task: Every label has an image.
        adapt: From a support set to a classifier.
        most: Images of a label to adapt on.
        rng: Deals patients, and draws what is adapted on.

    Returns:
        None where some label has a single patient, or no deal leaves each in two folds or more.
    """
    fold_of = dealt_patients(task, rng)
    if not fold_of:
        return None
    folds = np.array([fold_of[int(patient)] for patient in task.patients])
    right = np.zeros(task.n_images)
    for fold in sorted(set(fold_of.values())):
        others = {patient for patient, of in fold_of.items() if of != fold}
        classify = adapt(labelled_support(task, most=most, rng=rng, patients=others))
        rows = np.flatnonzero(folds == fold)
        right[rows] = is_correct(scores_of(classify, task, rows), task.labels[rows])
    estimates = [_of_label(right, task, label) for label in range(len(task.label_names))]
    overall = mean_over_findings(estimates, right, task.patients, task.labels)
    return LeftOutCheck(
        folds=len(set(fold_of.values())),
        findings=tuple(
            FindingCheck(
                label=name,
                right=int(right[task.labels == label].sum()),
                images=int((task.labels == label).sum()),
                patients=estimates[label].patients,
                share=estimates[label].mean,
                ci95=(estimates[label].low, estimates[label].high),
            )
            for label, name in enumerate(task.label_names)
        ),
        share=overall.mean,
        ci95=(overall.low, overall.high),
    )


def dealt_patients(task: Task, rng: np.random.Generator) -> dict[int, int]:
    """Return the fold of each patient; nobody where a label would be missing outside of a fold.

    Where patients have several labels one deal may leave a label in a single fold, and the next
    not: up to `DEALS_BEFORE_GIVING_UP` are made.
    """
    fewest = min(len(images_of) for images_of in task.images_of.values())
    for _ in range(DEALS_BEFORE_GIVING_UP if fewest > 1 else 0):
        fold_of = _dealt_once(task, min(MOST_FOLDS, fewest), rng)
        if all(len({fold_of[p] for p in images_of}) > 1 for images_of in task.images_of.values()):
            return fold_of
    return {}


def _dealt_once(task: Task, n_folds: int, rng: np.random.Generator) -> dict[int, int]:
    """Return a fold for each patient.

    Labels with few patients are dealt first, each patient into the fold that has fewest of theirs.
    """
    folds = range(n_folds)
    fold_of: dict[int, int] = {}
    for images_of in sorted(task.images_of.values(), key=len):
        n_in = Counter(fold_of[patient] for patient in images_of if patient in fold_of)
        for patient in rng.permutation([p for p in images_of if p not in fold_of]).tolist():
            fold_of[patient] = min(folds, key=lambda fold: n_in[fold])
            n_in[fold_of[patient]] += 1
    return fold_of


def scores_of(classify: Classifier, task: Task, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n, n_way) what a classifier says of images of a task; see `class_scores`."""
    parts = [
        class_scores(classify(task.take(rows[first : first + AT_ONCE])))
        for first in range(0, len(rows), AT_ONCE)
    ]
    return np.concatenate(parts)


def _of_label(right: NDArray[np.float64], task: Task, label: int) -> Estimate:
    of_label = task.labels == label
    patients = task.patients[of_label]
    nobody = np.zeros((len(np.unique(patients)), 0), dtype=np.int64)
    draws = Draws(patients, episodes=patients, labels=np.zeros_like(patients), supports=nobody)
    return clustered_mean(right[of_label], draws)
