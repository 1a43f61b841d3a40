"""What tests of the accountant share: compositions, and dp-accounting's own answer."""

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

from metaward_client.privacy.privacy_loss import neighboring_relation
from metaward_client.privacy.terms import Composition, GaussianStep, Relation

ADD = Relation.ADD_OR_REMOVE_ONE
REPLACE = Relation.REPLACE_ONE
STEP = GaussianStep(1.0, 0.05)


def steps(*each: tuple[float, float, int]) -> dict[GaussianStep, int]:
    return {GaussianStep(sigma, q): count for sigma, q, count in each}


def dp_accounting_epsilon(composition: Composition, target_delta: float, rel: Relation) -> float:
    """Ask dp-accounting's own accountant, which composes in its own way."""
    record = PLDAccountant(neighboring_relation(rel))
    for step, count in composition.items():
        gaussian = GaussianDpEvent(step.noise_multiplier)
        record.compose(
            SelfComposedDpEvent(PoissonSampledDpEvent(step.sample_rate, gaussian), count)
        )
    return float(record.get_epsilon(target_delta))
