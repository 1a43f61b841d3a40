"""What a check found, in words that a privacy officer can read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What a check says about the promise."""

    PASS = "pass"  # noqa: S105 (a verdict, no password)
    FAIL = "fail"
    NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: Short name.
        question: What the check asks, as a question.
        done: What was done.
        seen: What was seen.
        verdict: ``PASS`` where the promise withstood, ``NOT_SHOWN`` where the check is a figure.
        figures: Named numbers behind ``seen``; none is about a single patient.
    """

    check: str
    question: str
    done: str
    seen: str
    verdict: Verdict
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """All that one run of the audit found.

    Attributes:
        data: Which data, in words; no name, path or number of patients.
        synthetic: Whether the audit drew the data itself.
        promise: What the hospital promises a patient.
        claim: The figures of the promise: mechanism, unit, relation, budget, accountant.
        findings: Each check.
        limits: What the audit cannot show.
    """

    data: str
    synthetic: bool
    promise: str
    claim: Mapping[str, str]
    findings: Sequence[Finding]
    limits: Sequence[str]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.FAIL)

    def as_json(self) -> dict[str, object]:
        """Return plain values; figures that are not finite become null."""
        import math

        plain: dict[str, object] = asdict(self)
        plain["findings"] = [
            asdict(finding)
            | {"figures": {k: v if math.isfinite(v) else None for k, v in finding.figures.items()}}
            for finding in self.findings
        ]
        not_shown = sum(finding.verdict is Verdict.NOT_SHOWN for finding in self.findings)
        verdict = "fail" if self.failed else "pass"
        return {"version": 1, "verdict": verdict, "not_shown": not_shown, **plain}


def verdict_of(ok: bool) -> Verdict:
    """Return ``PASS`` or ``FAIL``."""
    return Verdict.PASS if ok else Verdict.FAIL
