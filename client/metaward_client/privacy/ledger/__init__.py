"""The hospital's ledger: what was released, what it cost, and whether the next round may be."""

from metaward_client.privacy.ledger.ledger import Ledger
from metaward_client.privacy.ledger.refusals import BudgetExceeded
from metaward_client.privacy.ledger.rounds import Replay, Reservation, RoundId
from metaward_client.privacy.ledger.snapshot import read_ledger

__all__ = ["BudgetExceeded", "Ledger", "Replay", "Reservation", "RoundId", "read_ledger"]
