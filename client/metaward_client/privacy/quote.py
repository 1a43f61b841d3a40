"""What a plan of rounds costs its patients, before any data is touched."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from metaward.errors import PrivacyError
from metaward.privacy_promise import BLOCK
from metaward_client.privacy.accountant import MOST_ROUNDS, accountant_name, epsilon
from metaward_client.privacy.calibration import noise_multiplier_for, rounds_for
from metaward_client.privacy.terms import GaussianStep, Relation

UNIT = "patient"
SAMPLING = "Poisson"
OTHER_ROUNDS = (Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4))
"""Of the plan's rounds: what fewer and more would cost."""


@dataclass(frozen=True)
class Plan:
    """What a site means to allow; exactly one of the three that are None is solved for.

    Attributes:
        mechanism: ``"dp-sgd"`` or ``"block"``.
        target_delta: Above 0, below 1.
        steps: Noised sums per round.
        sample_rate: q, in (0, 1].
        target_epsilon: Of all rounds together, or None.
        rounds: Of all studies together, or None.
        noise_multiplier: sigma, or None.
    """

    mechanism: str
    target_delta: float
    steps: int
    sample_rate: float
    target_epsilon: float | None
    rounds: int | None
    noise_multiplier: float | None

    @property
    def relation(self) -> Relation:
        """A block stays when a patient of it goes, so its vector is replaced."""
        return Relation.REPLACE_ONE if self.mechanism == BLOCK else Relation.ADD_OR_REMOVE_ONE

    @property
    def solved_for(self) -> str:
        """Name of the one that is None."""
        names = ("target_epsilon", "rounds", "noise_multiplier")
        (missing,) = (name for name in names if getattr(self, name) is None)
        return missing


@dataclass(frozen=True)
class Quote:
    """A plan with nothing left open, and its cost.

    Attributes:
        plan: As it was asked.
        noise_multiplier: sigma.
        rounds: At least 1.
        epsilon: Of all rounds together, at the plan's target delta and in its relation.
        epsilon_replace_one: The same under replace-one, which counts in a ledger that also holds
            block releases.
        other_rounds: Numbers of rounds, ascending, and the epsilon of each; the plan's among them.
    """

    plan: Plan
    noise_multiplier: float
    rounds: int
    epsilon: float
    epsilon_replace_one: float
    other_rounds: tuple[tuple[int, float], ...]

    @property
    def is_capped(self) -> bool:
        """Whether more rounds than these may fit: the search ended here."""
        return self.plan.rounds is None and self.rounds == MOST_ROUNDS

    @property
    def composition(self) -> dict[GaussianStep, int]:
        """All steps of all rounds."""
        return _composition(self.plan, self.noise_multiplier, self.rounds)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return what `--json` prints; an infinite epsilon, which promises nothing, is null."""
        plan = self.plan
        return {
            "unit": UNIT,
            "relation": plan.relation.value,
            "sampling": SAMPLING,
            "mechanism": plan.mechanism,
            "accountant": accountant_name(),
            "epsilon": _finite(self.epsilon),
            "target_epsilon": plan.target_epsilon,
            "target_delta": plan.target_delta,
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": plan.sample_rate,
            "rounds": self.rounds,
            "rounds_capped": self.is_capped,
            "steps": plan.steps,
            "solved_for": plan.solved_for,
            "epsilon_replace_one": _finite(self.epsilon_replace_one),
            "other_rounds": [
                {"rounds": rounds, "epsilon": _finite(cost)} for rounds, cost in self.other_rounds
            ],
        }


def quote(plan: Plan) -> Quote:
    """Solve for what the plan leaves open, and say what it costs.

    Raises:
        PrivacyError: No noise or no round fits into the plan's budget.
    """
    sigma, rounds = plan.noise_multiplier, plan.rounds
    if sigma is None:
        assert rounds is not None, "one of the three is open"
        sigma = _noise(plan, rounds)
    elif rounds is None:
        rounds = _rounds(plan, sigma)
    others = sorted({max(1, round(rounds * factor)) for factor in OTHER_ROUNDS})
    return Quote(
        plan=plan,
        noise_multiplier=sigma,
        rounds=rounds,
        epsilon=_epsilon(plan, sigma, rounds, plan.relation),
        epsilon_replace_one=_epsilon(plan, sigma, rounds, Relation.REPLACE_ONE),
        other_rounds=tuple((n, _epsilon(plan, sigma, n, plan.relation)) for n in others),
    )


def _noise(plan: Plan, rounds: int) -> float:
    assert plan.target_epsilon is not None, "one of the three is open"
    return noise_multiplier_for(
        rounds=rounds,
        steps=plan.steps,
        sample_rate=plan.sample_rate,
        target_epsilon=plan.target_epsilon,
        target_delta=plan.target_delta,
        relation=plan.relation,
    )


def _rounds(plan: Plan, sigma: float) -> int:
    assert plan.target_epsilon is not None, "one of the three is open"
    rounds = rounds_for(
        noise_multiplier=sigma,
        steps=plan.steps,
        sample_rate=plan.sample_rate,
        target_epsilon=plan.target_epsilon,
        target_delta=plan.target_delta,
        relation=plan.relation,
    )
    if rounds == 0:
        cost = _epsilon(plan, sigma, 1, plan.relation)
        raise PrivacyError(
            f"one round costs epsilon {cost:.4g}",
            expected=f"at most {plan.target_epsilon:g} at delta {plan.target_delta:g}",
            where=f"sigma {sigma:g}, sample rate {plan.sample_rate:g}, {plan.steps} steps",
            next_step="Plan more noise, fewer steps, a smaller sample rate, or a larger epsilon.",
        )
    return min(rounds, MOST_ROUNDS)


def _epsilon(plan: Plan, sigma: float, rounds: int, relation: Relation) -> float:
    composition = _composition(plan, sigma, rounds)
    return epsilon(composition, target_delta=plan.target_delta, relation=relation)


def _composition(plan: Plan, sigma: float, rounds: int) -> dict[GaussianStep, int]:
    return {GaussianStep(sigma, plan.sample_rate): rounds * plan.steps}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
