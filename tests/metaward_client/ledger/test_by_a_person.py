import pytest
from ledger_place import BUDGET, TERMS, A, Place

from metaward.errors import ConfigError, PrivacyError
from metaward_client.privacy.ledger import BudgetExceeded, RoundId, read_ledger
from metaward_client.privacy.ledger.by_a_person import raise_budget
from metaward_client.privacy.terms import Budget


def raise_to(place: Place, budget: Budget, reason: str = "decision 114") -> Budget:
    return raise_budget(place.ledger, place.witness, budget, reason, clock=place.clock, wait_s=0)


def test_a_raised_budget_holds_and_is_recorded_with_its_reason(place: Place) -> None:
    place.play([RoundId(A, index) for index in range(6)])
    assert raise_to(place, Budget(10.0, 1e-5)) == BUDGET
    with place.open() as ledger:
        with pytest.raises(BudgetExceeded):  # site.yaml still says 8
            ledger.reserve(RoundId(A, 6), TERMS, BUDGET)
        ledger.reserve(RoundId(A, 6), TERMS, Budget(10.0, 1e-5))
        ledger.reserve(RoundId(A, 7), TERMS, Budget(10.0, 1e-5))
        with pytest.raises(BudgetExceeded):
            ledger.reserve(RoundId(A, 8), TERMS, Budget(10.0, 1e-5))
        with pytest.raises(PrivacyError, match="at most epsilon 10"):
            ledger.reserve(RoundId(A, 8), TERMS, Budget(10.1, 1e-5))
    assert (
        b'"kind":"budget","payload":{"from":{"target_delta":1e-05,"target_epsilon":8.0},'
        b'"reason":"decision 114","to":{"target_delta":1e-05,"target_epsilon":10.0}}'
    ) in place.file.read_bytes()


def test_delta_can_be_raised_too(place: Place) -> None:
    raise_to(place, Budget(8.0, 1e-4))
    assert read_ledger(place.ledger, place.witness, clock=place.clock).budget == Budget(8.0, 1e-4)


@pytest.mark.parametrize(
    "to", [BUDGET, Budget(7.0, 1e-5), Budget(9.0, 1e-6), Budget(7.0, 1e-4), Budget(8.0, 1e-6)]
)
def test_a_budget_is_only_raised(place: Place, to: Budget) -> None:
    before = place.file.read_bytes()
    with pytest.raises(ConfigError, match="and neither below it"):
        raise_to(place, to)
    assert place.file.read_bytes() == before


def test_a_budget_is_not_raised_without_a_reason(place: Place) -> None:
    before = place.file.read_bytes()
    with pytest.raises(ConfigError, match="Say who decided it, and why"):
        raise_to(place, Budget(10.0, 1e-5), " ")
    assert place.file.read_bytes() == before


def test_a_budget_is_not_raised_while_a_round_runs(place: Place) -> None:
    with place.open(), pytest.raises(PrivacyError, match="another process"):
        raise_to(place, Budget(10.0, 1e-5))
