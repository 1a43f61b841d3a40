"""The ledger against a simple model, in any order: rounds of three studies, crashes, raises.

The model is a list of charged rounds, a dictionary of answers, and a sum. After a crash the ledger
may stand before or after the step that was under way, and nowhere else.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledger_faults import PowerDisk, Stopped
from ledger_place import BLOCK, OTHER, TERMS, A, B, C, Place, cost, memory_of, new_place

from metaward_client.privacy.ledger import BudgetExceeded, Replay, Reservation, RoundId
from metaward_client.privacy.ledger.by_a_person import raise_budget
from metaward_client.privacy.ledger.disk import Disk
from metaward_client.privacy.ledger.snapshot import verify_ledger
from metaward_client.privacy.terms import Budget, Composition, Relation, Terms

STUDIES = {A: TERMS, B: OTHER, C: BLOCK}
studies = st.sampled_from(sorted(STUDIES))
indices = st.integers(0, 7)
effects = st.integers(1, 60)


class Hospital(RuleBasedStateMachine):
    """What the model knows: what was charged, answered, and left as memory."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.place: Place = new_place(self.folder)
        self.budget = Budget(8.0, 1e-5)
        self.charged: list[RoundId] = []
        self.answers: dict[RoundId, bytes] = {}
        self.memory: dict[str, bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @rule(study=studies, index=indices)
    def answer(self, study: str, index: int) -> None:
        self._ask(RoundId(study, index), None, commit=True)

    @rule(study=studies, index=indices)
    def reserve_and_end(self, study: str, index: int) -> None:
        self._ask(RoundId(study, index), None, commit=False)

    @rule(
        study=studies,
        index=indices,
        at=effects,
        torn=st.sampled_from([0, 1, 300]),
        names=st.sampled_from(["all", "newest", "none"]),
        content=st.sampled_from(["all", "half", "none"]),
    )
    def crash(self, study: str, index: int, at: int, torn: int, names: str, content: str) -> None:
        disk = PowerDisk(self.place.ledger.parent, at, torn)
        self.tried = b""
        charged, answers = list(self.charged), dict(self.answers)
        round_ = RoundId(study, index)
        try:
            self._ask(round_, disk, commit=True)
        except Stopped:
            disk.lose_power(names=names, content=content)
            self._look(round_, charged, answers)

    @rule(epsilon=st.sampled_from([8.5, 10.0, 16.0]))
    def raise_budget(self, epsilon: float) -> None:
        if epsilon > self.budget.target_epsilon:
            to = Budget(epsilon, 1e-5)
            clock = self.place.clock
            raise_budget(self.place.ledger, self.place.witness, to, "because", clock=clock)
            self.budget = to

    @rule(minutes=st.sampled_from([1, 600]))
    def move_clock(self, minutes: int) -> None:
        self.place.clock.move(minutes=minutes)

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        if not hasattr(self, "place"):
            return
        state = verify_ledger(self.place.ledger, self.place.witness, clock=self.place.clock)
        assert [release.round for release in state.releases] == self.charged
        assert {r.round for r in state.releases if r.commit} == self.answers.keys()
        assert state.spent == self._spent(self.charged)
        assert cost(state.spent, state.relation) <= self.budget.target_epsilon

    def _ask(self, round_: RoundId, disk: Disk | None, *, commit: bool) -> None:
        terms = STUDIES[round_.study]
        with self.place.open(disk) as ledger:
            try:
                answer = ledger.reserve(round_, terms, self.budget)
            except BudgetExceeded:
                assert round_ not in self.charged
                assert not self._fits(round_)
                return
            if isinstance(answer, Replay):
                assert answer.reply == self.answers[round_]
                return
            self._check(answer, round_, terms)
            if commit:
                self.tried = os.urandom(20)
                ledger.commit(answer, self.tried, memory_of(round_))
                self.answers[round_] = self.tried
                self.memory[round_.study] = memory_of(round_)

    def _check(self, answer: Reservation, round_: RoundId, terms: Terms) -> None:
        assert round_ not in self.answers
        assert answer.charge == terms.per_round()
        assert answer.memory == self.memory.get(round_.study)
        assert answer.resumed == (round_ in self.charged)
        if not answer.resumed:
            assert self._fits(round_)
            self.charged.append(round_)

    def _look(self, round_: RoundId, charged: list[RoundId], answers: dict[RoundId, bytes]) -> None:
        """After a crash: what must be there is there, and what is there could be."""
        could_have_been_sent = self.answers
        with self.place.open() as ledger:
            now = [release.round for release in ledger.state.releases]
            answered = {r.round for r in ledger.state.releases if r.commit}
        assert self.charged == charged or now == self.charged  # a reservation was given
        assert now == charged or now == [*charged, round_]
        assert could_have_been_sent.keys() <= answered <= {*answers, round_}
        self.charged = now
        if round_ in answered and round_ not in answers:
            self.answers = {**answers, round_: self.tried}
            self.memory[round_.study] = memory_of(round_)
        if round_ in answered:
            self._ask(round_, None, commit=False)  # the same bytes

    def _fits(self, round_: RoundId) -> bool:
        rounds = [*self.charged, round_]
        blocks = any(STUDIES[r.study].relation is Relation.REPLACE_ONE for r in rounds)
        relation = Relation.REPLACE_ONE if blocks else Relation.ADD_OR_REMOVE_ONE
        return cost(self._spent(rounds), relation) <= self.budget.target_epsilon

    def _spent(self, rounds: list[RoundId]) -> Composition:
        spent: dict[object, int] = {}
        for round_ in rounds:
            for step, count in STUDIES[round_.study].per_round().items():
                spent[step] = spent.get(step, 0) + count
        return spent  # type: ignore[return-value]


class TestHospital(Hospital.TestCase):
    settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


@pytest.mark.slow
class TestHospitalForLong(Hospital.TestCase):
    settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
