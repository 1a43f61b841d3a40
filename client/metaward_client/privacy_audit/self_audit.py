"""The self-audit: steps charged, steps noised and answers released must agree.

A site answers some rounds, is restarted, answers more, and is asked an old round again. What is
counted does not come from the code that is audited: charges are read back from the ledger, noised
steps are normals drawn from the source over the numbers in one sum.
"""

from collections.abc import Callable
from dataclasses import dataclass

from metaward_client.privacy_audit.findings import Finding, verdict_of

ROUNDS_BEFORE, ROUNDS_AFTER = 2, 2


@dataclass(frozen=True)
class AuditedSite:
    """A site at work.

    Attributes:
        answer: Round index -> the bytes that leave.
        restart: Stops the site and starts it again from its disk.
        charged_steps: Steps that the ledger holds.
        noised_steps: Sums that noise was really drawn for.
        steps_per_round: What one round must cost.
    """

    answer: Callable[[int], bytes]
    restart: Callable[[], None]
    charged_steps: Callable[[], int]
    noised_steps: Callable[[], int]
    steps_per_round: int


@dataclass(frozen=True)
class Counts:
    """What was counted in the end.

    Attributes:
        charged: Steps in the ledger.
        noised: Steps that got noise.
        released: Steps that the released answers stand for.
        same_answer: Whether the old round gave the same bytes again.
    """

    charged: int
    noised: int
    released: int
    same_answer: bool

    @property
    def agree(self) -> bool:
        """Whether the counts agree and the repeated round was the same."""
        return self.same_answer and self.charged == self.noised == self.released


def counts_of(site: AuditedSite) -> Counts:
    """Let a site answer rounds, restart it, ask an old round again, and count."""
    answers = [site.answer(index) for index in range(ROUNDS_BEFORE)]
    site.restart()
    later = range(ROUNDS_BEFORE, ROUNDS_BEFORE + ROUNDS_AFTER)
    answers += [site.answer(index) for index in later]
    again = site.answer(0)
    released = len(set(answers)) * site.steps_per_round
    return Counts(site.charged_steps(), site.noised_steps(), released, again == answers[0])


def self_audit_finding(name: str, counts: Counts) -> Finding:
    """Say whether the ledger holds what was done."""
    return Finding(
        check=f"self-audit, {name}",
        question="Does the ledger hold every step that was released, over restarts and repeats?",
        done="Rounds were answered under a ledger made for this audit, policy and ledger were read "
        "anew from the disk as at a restart, and an old round was asked again.",
        seen=f"Steps charged {counts.charged}, noised {counts.noised}, released "
        f"{counts.released}; the repeated round gave "
        f"{'the same' if counts.same_answer else 'OTHER'} bytes.",
        verdict=verdict_of(counts.agree),
        figures={
            "charged": float(counts.charged),
            "noised": float(counts.noised),
            "released": float(counts.released),
        },
    )
