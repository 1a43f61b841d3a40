"""Sensitivity: how far one patient moves a sum, over how far the mechanism says at most.

Same randomness, no noise, two data sets that differ in one adversarial patient (PRIVACY evidence:
Jagielski et al. 2020, arXiv:2006.07709, use such worst cases against DP-SGD). With

    ratio = |f(D) - f(D')| / claimed,   claimed = C (add or remove one), 2 C (replace one)

a sound mechanism has ratio <= 1 whatever the patient brings. Noise hides nothing here, so one
evaluation of each world is enough.
"""

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from metaward.tasks import Task
from metaward_client.privacy.terms import Relation
from metaward_client.privacy_audit.findings import Finding, Verdict, verdict_of
from metaward_client.privacy_audit.worlds import Worlds

VectorSum = Callable[[Task], Mapping[str, NDArray[np.floating]]]
"""A data set -> the sum before noise and before the division, leaf by leaf; randomness is fixed."""

ROUNDING = 1.0e-6
"""What float32 may add to a ratio."""


def worst_ratio(
    vector_sum: VectorSum, worlds: Worlds, *, max_grad_norm: float, relation: Relation
) -> float:
    """Return the largest change of the sum over the claimed sensitivity; infinite where not finite.

    Under add-or-remove each adversarial patient is compared with nobody; under replace-one any two
    worlds are compared.
    """
    absent = _flat(vector_sum(worlds.absent))
    present = [_flat(vector_sum(task)) for task in worlds.present.values()]
    if relation is Relation.ADD_OR_REMOVE_ONE:
        changes = [one - absent for one in present]
        claimed = max_grad_norm
    else:
        changes = [one - other for one, other in combinations([absent, *present], 2)]
        claimed = 2 * max_grad_norm
    norms = [float(np.linalg.norm(change)) for change in changes]
    return max(norm / claimed if np.isfinite(norm) else float("inf") for norm in norms)


def sensitivity_finding(name: str, ratios: Mapping[str, float], relation: Relation) -> Finding:
    """Say whether one patient moved any of the sums further than claimed.

    Sums that no patient moves, because the data is too few to learn from, show nothing.
    """
    worst = max(ratios.values())
    seen = f"The largest change was {worst:.4f} of what the mechanism claims at most."
    if worst == 0:
        seen = (
            "That patient changed nothing: the random part of the data had too few patients of "
            "the labels that were drawn. Run it again, or without a site."
        )
    verdict = verdict_of(worst <= 1 + ROUNDING) if worst > 0 else Verdict.NOT_SHOWN
    return Finding(
        check=f"sensitivity, {name}",
        question="Can one patient, whatever their images and labels, move what is computed by "
        "more than the noise is made for?",
        done=f"The sums were computed without noise in two worlds that differ in one patient "
        f"({relation}): as found, with huge or infinite pixels, missing numbers, wrong and "
        "contradictory labels, and many images. All randomness was the same, and the bound so "
        "small that every patient meets it.",
        seen=seen,
        verdict=verdict,
        figures=dict(ratios),
    )


def _flat(leaves: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    parts = [np.asarray(leaves[name], dtype=np.float64).ravel() for name in sorted(leaves)]
    return np.concatenate(parts)
