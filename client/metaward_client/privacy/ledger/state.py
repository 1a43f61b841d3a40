"""What the entries of a ledger say together: budget, studies, rounds, what was spent.

The payload of each kind of entry is written and read here, and nowhere else:

    open     ledger, unit, target_epsilon, target_delta
    study    study, terms, max_rounds
    reserve  study, round, mechanism, max_grad_norm, relation, charge
    commit   study, round, reply, memory                     (SHA-256 of each; memory may be null)
    budget   from, to (target_epsilon, target_delta), reason
    clock    from, to, reason
    limit    see limits.py
    cut      bytes

All of it is policy: no patient, no path, no count of patients.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from metaward_client.privacy.ledger.chain import Entry, Kind
from metaward_client.privacy.ledger.limits import Limit, charge_from_json, charge_to_json
from metaward_client.privacy.ledger.refusals import written_by_another_version
from metaward_client.privacy.ledger.rounds import RoundId
from metaward_client.privacy.terms import Budget, Composition, GaussianStep, Relation, Terms

UNIT = "patient"
REPLIES_KEPT = 16
"""Newest answers of a study that can be given again. A coordinator repeats the last round."""

Payload = Mapping[str, Any]  # Any: JSON holds any plain value


@dataclass(frozen=True)
class Commit:
    """SHA-256 of what a round left; ``memory`` is ``None`` where it left none."""

    reply: str
    memory: str | None


@dataclass
class Release:
    """One charged round.

    Attributes:
        time: When it was charged; UTC, ISO 8601.
        charge: What it costs, committed or not.
        commit: ``None`` while its answer is not stored.
    """

    round: RoundId
    time: str
    charge: Composition
    commit: Commit | None = None


@dataclass
class StudyRecord:
    """What the ledger knows of one study.

    Attributes:
        terms: Pinned at its first round.
        max_rounds: Pinned too, where the hospital has a bound.
        releases: By round index, in the order in which they were charged.
        committed: Round indices in the order in which they were committed.
    """

    study: str
    terms: Terms
    max_rounds: int | None
    releases: dict[int, Release] = field(default_factory=dict)
    committed: list[int] = field(default_factory=list)

    def kept(self) -> list[int]:
        """Return the committed rounds whose answers can be given again."""
        return self.committed[-REPLIES_KEPT:]


class LedgerState:
    """The sum of all entries; grows with each.

    Attributes:
        ledger: A random name, made with the ledger.
        studies: By digest, in the order of their first rounds.
        releases: All charged rounds, in order.
        limits: Answers of the accountant, in order.
        last_time: Time of the last entry.
    """

    def __init__(self, entries: Iterable[Entry], where: str) -> None:
        self.ledger = ""
        self._budget: Budget | None = None
        self.studies: dict[str, StudyRecord] = {}
        self.releases: list[Release] = []
        self.limits: list[Limit] = []
        self.last_time = ""
        self.entries = 0
        self.relation = Relation.ADD_OR_REMOVE_ONE
        self._spent: dict[GaussianStep, int] = {}
        self._where = where
        for entry in entries:
            self.apply(entry)

    @property
    def budget(self) -> Budget:
        """The most that any caller may ask for: as opened, and as raised since."""
        assert self._budget is not None  # the first entry states it
        return self._budget

    @property
    def spent(self) -> dict[GaussianStep, int]:
        """Everything charged, committed or not, of all studies."""
        return dict(self._spent)

    def relation_with(self, terms: Terms) -> Relation:
        """Return the relation in which the ledger and one more round are accounted.

        Replace-one as soon as one block release is among them: a patient's block stays when the
        patient goes, so add-or-remove-one says nothing about it.
        """
        return max(self.relation, terms.relation, key=(*Relation,).index)

    def apply(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            PrivacyError: It is genuine, but does not fit what this version understands.
        """
        try:
            self._apply(entry.kind, entry.payload, entry.time)
        except (KeyError, TypeError, ValueError) as error:
            raise written_by_another_version(
                f"an entry ({entry.index}, {entry.kind}: {type(error).__name__})",
                where=self._where,
            ) from None
        self.last_time = entry.time
        self.entries += 1

    def _apply(self, kind: Kind, payload: Payload, time: str) -> None:
        match kind:
            case Kind.RESERVE:
                self._reserve(payload, time)
            case Kind.COMMIT:
                study_record = self.studies[payload["study"]]
                release = study_record.releases[payload["round"]]
                release.commit = Commit(payload["reply"], payload["memory"])
                study_record.committed.append(payload["round"])
            case Kind.OPEN:
                self.ledger = payload["ledger"]
                self._budget = budget_from_json(payload)
            case Kind.BUDGET:
                self._budget = budget_from_json(payload["to"])
            case Kind.STUDY:
                terms = Terms(**payload["terms"])
                study = payload["study"]
                self.studies[study] = StudyRecord(study, terms, payload["max_rounds"])
            case Kind.LIMIT:
                self.limits.append(Limit.from_json(payload))
            case Kind.CLOCK | Kind.CUT:
                pass

    def _reserve(self, payload: Payload, time: str) -> None:
        round_ = RoundId(payload["study"], payload["round"])
        charge = charge_from_json(payload["charge"])
        release = Release(round_, time, charge)
        self.studies[round_.study].releases[round_.round_index] = release
        self.releases.append(release)
        if payload["relation"] == Relation.REPLACE_ONE:
            self.relation = Relation.REPLACE_ONE
        for step, count in charge.items():
            self._spent[step] = self._spent.get(step, 0) + count


def open_payload(ledger: str, budget: Budget) -> Payload:
    """Return what the first entry says."""
    return {"ledger": ledger, "unit": UNIT, **asdict(budget)}


def study_payload(study: str, terms: Terms, max_rounds: int | None) -> Payload:
    """Return what pins a study's terms."""
    return {"study": study, "terms": asdict(terms), "max_rounds": max_rounds}


def reserve_payload(round_: RoundId, terms: Terms) -> Payload:
    """Return what charges a round."""
    return {
        "study": round_.study,
        "round": round_.round_index,
        "mechanism": terms.mechanism,
        "max_grad_norm": terms.max_grad_norm,
        "relation": terms.relation.value,
        "charge": charge_to_json(terms.per_round()),
    }


def commit_payload(round_: RoundId, commit: Commit) -> Payload:
    """Return what closes a round."""
    return {"study": round_.study, "round": round_.round_index, **asdict(commit)}


def budget_payload(before: Budget, after: Budget, reason: str) -> Payload:
    """Return what raises the budget."""
    return {"from": asdict(before), "to": asdict(after), "reason": reason}


def budget_from_json(payload: Payload) -> Budget:
    """Return the budget that a payload states."""
    return Budget(payload["target_epsilon"], payload["target_delta"])
