"""Why a ledger lets nothing out: one sentence each, with the next step."""

from metaward.errors import PrivacyError

RAISE_BUDGET = "metaward site ledger raise-budget"
ACCEPT_CLOCK = "metaward site ledger accept-clock"
CREATE = "metaward site ledger create"

BRING_BACK = (
    "Nothing was released. Bring back this file as it was after the last round; where that is not "
    "possible, treat the whole budget of these patients as spent."
)
"""Never "restore a backup": an older state has forgotten what was spent since."""


class BudgetExceeded(PrivacyError):  # noqa: N818 (says what happened, as its readers do)
    """The next round would cost more than is left of the budget; no work was done for it."""


def tampered(found: str, *, where: str, expected: str = "") -> PrivacyError:
    """Return the refusal of a ledger that is not as it was left."""
    return PrivacyError(found, expected=expected, where=where, next_step=BRING_BACK)


def written_by_another_version(what: str, *, where: str) -> PrivacyError:
    """Return the refusal of an entry that is genuine but not understood."""
    return PrivacyError(
        f"{what} that this version of metaward does not know",
        where=where,
        next_step="Nothing was released. Use the version of metaward that wrote the ledger, or a "
        "newer one.",
    )
