"""What a hospital has fixed for a study and for itself, and a round may not change."""

from metaward.errors import PrivacyError
from metaward_client.privacy.ledger.refusals import RAISE_BUDGET
from metaward_client.privacy.ledger.rounds import RoundId
from metaward_client.privacy.ledger.state import Release, StudyRecord
from metaward_client.privacy.terms import Budget, Terms


def require_pinned(
    study: StudyRecord | None, release: Release | None, terms: Terms, round_: RoundId
) -> None:
    """Refuse terms other than the study's; also where they now cost something else."""
    if study is None or (
        study.terms == terms and (release is None or release.charge == terms.per_round())
    ):
        return
    raise PrivacyError(
        "other privacy terms than at the study's first round",
        expected=f"{study.terms}",
        where=round_.where,
        next_step="Nothing was released. Put the terms in site.yaml back, or take part in a new "
        "study with the new ones.",
    )


def require_below_bound(study: StudyRecord | None, max_rounds: int | None, round_: RoundId) -> None:
    """Refuse a round at or above the smaller bound: the caller's, or the study's first one."""
    pinned = study.max_rounds if study else None
    bounds = [bound for bound in (max_rounds, pinned) if bound is not None]
    if bounds and round_.round_index >= min(bounds):
        raise PrivacyError(
            f"round {round_.round_index}",
            expected=f"a round below {min(bounds)}, the hospital's bound for this study",
            where=round_.where,
            next_step="Nothing was released; the study goes on without this site.",
        )


def require_recorded(recorded: Budget, asked: Budget) -> None:
    """Refuse a site.yaml that allows more than the ledger records."""
    if (
        asked.target_epsilon <= recorded.target_epsilon
        and asked.target_delta <= recorded.target_delta
    ):
        return
    raise PrivacyError(
        f"site.yaml allows epsilon {asked.target_epsilon:g} at delta {asked.target_delta:g}",
        expected=f"at most epsilon {recorded.target_epsilon:g} at delta "
        f"{recorded.target_delta:g}, which the ledger records",
        next_step=f"Nothing was released. A person raises it, with a reason: `{RAISE_BUDGET}`.",
    )
