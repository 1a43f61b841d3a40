"""Hold the accountant against others: dp-accounting's own composition, and Opacus' RDP and PRV.

An accountant that disagrees with all others must not be trusted. What has to hold:

    PRV - its error  <=  epsilon  <=  RDP           (Gopi et al. 2021; Mironov et al. 2019)
    dp-accounting's own composition  <=  epsilon  <=  that at delta - 2e-11, + 1e-4

(1e-11 of delta is what ours gives away, lest float64 should lose it: much of a delta of 1e-10.)
Opacus knows only adding and removing a patient. Replacing is removing one and adding another, so
its epsilon lies between that of removing and, by group privacy for two, twice that of removing at a
smaller delta (Vadhan 2017, "The complexity of differential privacy", lemma 2.2):

    2 * epsilon_removing(d)  where  d * (1 + exp(epsilon_removing(d))) <= target_delta
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaward.errors import PrivacyError
from metaward_client.privacy.accountant import epsilon
from metaward_client.privacy.privacy_loss import FLOATING_POINT_MASS, neighboring_relation
from metaward_client.privacy.terms import Composition, Relation

ORDERS = np.concatenate([1 + np.geomspace(1e-3, 10, 120), np.geomspace(11.5, 1e4, 80).round()])
"""Of Renyi divergence; far enough on both sides that the best one lies inside."""
PRV_ERROR = 0.01
PRV_DELTA_ERROR = 1e-3  # of target_delta
MOST_PRV_POINTS = 4e6
"""With more points PRV takes minutes; it is left out then."""
FAST_ERROR = 1e-4
GIVEN_AWAY = 2 * FLOATING_POINT_MASS
"""Of delta, by the accountant of record; twice that much, for tails and missing mass too."""
ROUNDING = 1e-3


@dataclass(frozen=True)
class CrossCheck:
    """What other accountants say about one composition; every value is an epsilon.

    Attributes:
        target_delta: At which all of them are stated.
        relation: Under which all of them are stated.
        pld: The accountant of record.
        pld_own_composition: dp-accounting's ``PLDAccountant``, step by step.
        pld_upper: What epsilon cannot lie above, by the same.
        rdp: Opacus' RDP, an upper bound, under replace-one by group privacy.
        prv: Opacus' PRV, an upper bound, or None where it cannot say; under replace-one it is that
            of adding and removing, which is less.
        prv_lower: What epsilon cannot lie below, by PRV.
    """

    target_delta: float
    relation: Relation
    pld: float
    pld_own_composition: float
    pld_upper: float
    rdp: float
    prv: float | None
    prv_lower: float | None

    def require_agreement(self) -> None:
        """Check that the accountant of record lies where the others say.

        Raises:
            PrivacyError: It does not, by more than the others' stated errors.
        """
        if self.pld < self.pld_own_composition:
            raise self._disagreement("less than dp-accounting's own composition")
        if math.isinf(self.pld):
            return  # no promise is made, so none can be wrong
        if self.pld > self.pld_upper:
            raise self._disagreement("more than dp-accounting's own composition")
        if self.pld > self.rdp + ROUNDING:
            raise self._disagreement("more than RDP's upper bound")
        if self.prv_lower is not None and self.pld < self.prv_lower:
            raise self._disagreement("less than PRV's lower bound")

    def _disagreement(self, what: str) -> PrivacyError:
        prv = "none" if self.prv is None else f"{self.prv:.4f}"
        return PrivacyError(
            f"the accountant says epsilon {self.pld:.4f}, {what}",
            expected=f"agreement with PLD {self.pld_own_composition:.4f}, RDP {self.rdp:.4f}, "
            f"PRV {prv}",
            where=f"delta {self.target_delta:g}, {self.relation}",
            next_step="Release nothing and report this: the installed accountants disagree.",
        )


def cross_check(
    composition: Composition,
    target_delta: float,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
) -> CrossCheck:
    """Return what every accountant says; takes seconds, because it imports Opacus.

    Raises:
        PrivacyError: They disagree.
    """
    composition = {step: composition[step] for step in sorted(composition) if composition[step]}
    rdp = _rdp_curve(composition)
    prv = _prv(composition, target_delta, rdp) if composition else None
    own = _own_composition(composition, relation)
    check = CrossCheck(
        target_delta=target_delta,
        relation=relation,
        pld=epsilon(composition, target_delta=target_delta, relation=relation),
        pld_own_composition=own(target_delta),
        pld_upper=own(target_delta - GIVEN_AWAY) + FAST_ERROR,
        rdp=_under(relation, rdp, target_delta),
        prv=prv,
        prv_lower=None if prv is None else max(0.0, prv - 2 * PRV_ERROR - ROUNDING),
    )
    check.require_agreement()
    return check


def _own_composition(composition: Composition, relation: Relation) -> Callable[[float], float]:
    """Return dp-accounting's epsilon as a function of delta; infinite where there is none."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    accountant = PLDAccountant(neighboring_relation(relation))
    for step, count in composition.items():
        one = PoissonSampledDpEvent(step.sample_rate, GaussianDpEvent(step.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(one, count))

    def at(target_delta: float) -> float:
        return math.inf if target_delta <= 0 else float(accountant.get_epsilon(target_delta))

    return at


def _rdp_curve(composition: Composition) -> Callable[[float], float]:
    """Return Opacus' RDP epsilon, of adding or removing, as a function of delta."""
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    divergence: NDArray[np.float64] = np.zeros(len(ORDERS))
    for step, count in composition.items():
        divergence += compute_rdp(
            q=step.sample_rate,
            noise_multiplier=step.noise_multiplier,
            steps=count,
            orders=ORDERS.tolist(),
        )

    def at(target_delta: float) -> float:
        with warnings.catch_warnings():  # the outermost order is the best one: still a bound
            warnings.filterwarnings("ignore", message="Optimal order is the")
            found, _ = get_privacy_spent(orders=ORDERS, rdp=divergence, delta=target_delta)
        return max(0.0, float(found))

    return at


def _under(relation: Relation, rdp: Callable[[float], float], target_delta: float) -> float:
    """Return RDP's bound under a relation; see the module for replacing."""
    if relation is Relation.ADD_OR_REMOVE_ONE:
        return rdp(target_delta)
    bounds = [math.inf]
    for target in target_delta * np.geomspace(0.5, 1e-200, 2000):
        removing = rdp(float(target))
        if math.log(target) + np.logaddexp(0.0, removing) <= math.log(target_delta):
            bounds.append(2 * removing)
            break  # smaller deltas only cost more
    return min(bounds)


def _prv(
    composition: Composition, target_delta: float, rdp: Callable[[float], float]
) -> float | None:
    """Return Opacus' PRV upper bound of adding or removing, or None where it cannot say."""
    from opacus.accountants import PRVAccountant

    steps = sum(composition.values())
    half_width = rdp(target_delta * PRV_DELTA_ERROR / 4) + 3
    spacing = PRV_ERROR / math.sqrt(steps * math.log(12 / (target_delta * PRV_DELTA_ERROR)) / 2)
    if 2 * half_width / spacing > MOST_PRV_POINTS:
        return None
    accountant = PRVAccountant()
    accountant.history = [(s.noise_multiplier, s.sample_rate, n) for s, n in composition.items()]
    with warnings.catch_warnings():  # q = 1 takes the logarithm of 0, which is meant
        warnings.simplefilter("ignore")
        try:
            found = float(accountant.get_epsilon(target_delta, eps_error=PRV_ERROR))
        except (RuntimeError, ValueError):  # "Cannot compute epsilon", floating point errors
            return None
    return found if math.isfinite(found) else None
