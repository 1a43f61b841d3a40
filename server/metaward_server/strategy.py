"""The rounds of a study, as a Flower strategy with a loop of its own.

Flower's ``Strategy.start`` always begins at round 1, ends a study of empty rounds as a success, and
has no place for a checkpoint. :meth:`MetaStrategy.start` goes round by round from where the
checkpoint stands; the four hooks keep Flower's meaning, so that Flower's tools can call them too.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from metaward.arrays import Arrays, l2_norm
from metaward.errors import FederationError
from metaward.progress import RoundEvent
from metaward.study import Study
from metaward.wire import RoundOrder, encode_order
from metaward.wire_arrays import decode_arrays, encode_arrays, spec_of
from metaward_server.admission import Admission, Rules, admit
from metaward_server.aggregation.compose import aggregate
from metaward_server.checkpoints import CheckpointStore, Progress
from metaward_server.outer_optimizers import outer_step
from metaward_server.rounds_log import RoundsLog
from metaward_server.sampling import sample_nodes

logger = logging.getLogger(__name__)

NODE_POLL_S = 0.05
"""Pause between two looks at which nodes are there, before a round."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class StudyRecord:
    """Where a study is written down, and who watches it.

    Attributes:
        checkpoints: After every round.
        rounds: One line per round.
        on_round: Called when a round is closed and on disk.
    """

    checkpoints: CheckpointStore
    rounds: RoundsLog
    on_round: Callable[[RoundEvent], None]


@dataclass(frozen=True)
class _OpenRound:
    """What :meth:`MetaStrategy.aggregate_train` needs to know of the round that it closes."""

    server_round: int
    theta: Arrays
    messages: list[Message]

    def asked(self) -> dict[str, int]:
        """Return message id -> node; ids are there once the grid has sent the messages."""
        return {
            message.metadata.message_id: message.metadata.dst_node_id for message in self.messages
        }


class MetaStrategy(Strategy):
    """Asks sites for deltas, admits, aggregates, and moves theta.

    Args:
        study: What is run.
        record: Where it is written down.
        n_nodes: Nodes to wait for before the first round, at most one deadline long; the study
            begins with fewer when the quorum is there.
        clock: Seconds, monotonic.
        now: Seconds since 1970 (UTC).
    """

    def __init__(
        self,
        study: Study,
        record: StudyRecord,
        *,
        n_nodes: int,
        clock: Clock = time.monotonic,
        now: Clock = time.time,
    ) -> None:
        self.study = study
        self.record = record
        self.n_nodes = n_nodes
        self._clock, self._now = clock, now
        self._digest = study.digest()
        self._progress = Progress(0, {}, {})
        self._open: _OpenRound | None = None
        self._admission = Admission({}, {})

    def start(  # type: ignore[override]  # the study says how many rounds, and how long they last
        self, grid: Grid, progress: Progress
    ) -> Progress:
        """Play the rounds that the study has still to go after ``progress``.

        Raises:
            FederationError: The quorum did not come, or ``max_void_rounds`` rounds in a row were
                void.
        """
        self._progress = progress
        void_in_a_row = 0
        if progress.next_round < self.study.rounds:
            self._wait_for_nodes(grid)
        for round_index in range(progress.next_round, self.study.rounds):
            event = self._play_round(grid, round_index)
            self.record.rounds.append(event)
            self.record.checkpoints.save(self._progress)
            self.record.on_round(event)
            void_in_a_row = void_in_a_row + 1 if event.void else 0
            if void_in_a_row >= self.study.round.max_void_rounds:
                raise self._too_many_void_rounds(void_in_a_row, event)
        return self._progress

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one order per sampled node; the round's index is ``server_round - 1``."""
        if config:
            raise ValueError("an order has no settings beside the study's")
        theta = decode_arrays(arrays, spec_of(self._progress.theta))
        order = encode_order(RoundOrder(self.study, server_round - 1, theta))
        nodes = sample_nodes(
            grid.get_node_ids(),
            count=self.study.round.sites_per_round,
            seed=self.study.seed,
            round_index=server_round - 1,
        )
        messages = [
            Message(
                order,
                dst_node_id=node,
                message_type=MessageType.TRAIN,
                ttl=self.study.round.deadline_s,
                group_id=str(server_round),
            )
            for node in nodes
        ]
        self._open = _OpenRound(server_round, theta, messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit the replies and take the outer step; no arrays when the round is void."""
        opened = self._open
        if opened is None or opened.server_round != server_round:
            raise ValueError(f"round {server_round} was not configured")
        self._open = None
        theta, outer_state = opened.theta, self._progress.outer_state
        self._admission = admit(
            replies,
            opened.asked(),
            Rules(spec_of(theta), self._digest, server_round - 1, self.study.round.max_delta_norm),
        )
        deltas = list(self._admission.deltas.values())
        if len(deltas) < self.study.least_updates():
            self._progress = Progress(server_round, theta, outer_state)
            return None, None
        delta = aggregate(self.study.aggregation, deltas)
        with np.errstate(over="ignore", invalid="ignore"):  # said below, in a sentence
            theta, outer_state = outer_step(self.study.outer, outer_state, theta, delta)
        self._require_finite(theta, server_round - 1)
        self._progress = Progress(server_round, theta, outer_state)
        metrics = MetricRecord({"admitted": len(deltas), "delta-norm": l2_norm(delta)})
        return encode_arrays(theta), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return no message: sites are not asked for scores, which would leak unnoised."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """There is nothing to aggregate; see :meth:`configure_evaluate`."""
        del server_round, replies

    def summary(self) -> None:
        """Log what is run."""
        logger.info(
            "study %s (%s): %d rounds, %s, %s, outer %s",
            self.study.name,
            self._digest[:12],
            self.study.rounds,
            self.study.learner.name,
            self.study.aggregation.name,
            self.study.outer.name,
        )

    def _play_round(self, grid: Grid, round_index: int) -> RoundEvent:
        self._wait_for(grid, self.study.least_updates())
        began = self._clock()
        theta = encode_arrays(self._progress.theta)
        messages = self.configure_train(round_index + 1, theta, ConfigRecord(), grid)
        sent = self._clock()
        replies = grid.send_and_receive(messages, timeout=self.study.round.deadline_s)
        received = self._clock()
        _, metrics = self.aggregate_train(round_index + 1, replies)
        norm = 0.0 if metrics is None else metrics["delta-norm"]
        assert isinstance(norm, float)
        seconds = self._clock() - began
        return RoundEvent(
            round_index=round_index,
            n_rounds=self.study.rounds,
            asked=len(messages),
            admitted=len(self._admission.deltas),
            refused={reason: len(nodes) for reason, nodes in self._admission.refused.items()},
            refused_nodes=self._admission.refused,
            promises={
                str(node): promise.to_settings()
                for node, promise in self._admission.promises.items()
            },
            void=metrics is None,
            delta_norm=norm,
            seconds=seconds,
            overhead_s=seconds - (received - sent),
            closed_at=self._now(),
        )

    def _wait_for_nodes(self, grid: Grid) -> None:
        present = self._wait_for(grid, self.n_nodes)
        if present < self.study.least_updates():
            raise FederationError(
                f"{present} sites are connected",
                expected=f"at least {self.study.least_updates()} ({self._who_needs_them()})",
                where=f"study {self.study.name}, before round {self._progress.next_round}",
                next_step=f"Connect more sites, or choose another {self._who_needs_them()}.",
            )

    def _wait_for(self, grid: Grid, n_nodes: int) -> int:
        """Wait for so many nodes, at most one deadline long; return how many are there.

        A node that was killed is away for a minute or so; without the wait, rounds that cannot
        count would go by meanwhile.
        """
        deadline = self._clock() + self.study.round.deadline_s
        while True:
            asked = self._clock()
            present = len(list(grid.get_node_ids()))
            deadline += self._clock() - asked  # a SuperLink that fails lets no node back in
            if present >= n_nodes or self._clock() > deadline:
                return present
            time.sleep(NODE_POLL_S)

    def _who_needs_them(self) -> str:
        of_rule = self.study.aggregation.least_updates()
        if of_rule > self.study.round.quorum:
            return f"aggregation {self.study.aggregation.name}"
        return "round.quorum"

    def _require_finite(self, theta: Arrays, round_index: int) -> None:
        """Stop before parameters are kept that no hospital and no reader of a model would take."""
        if all(np.isfinite(leaf).all() for leaf in theta.values()):
            return
        raise FederationError(
            "the outer step led to parameters that are not finite; the round was not kept",
            expected="finite numbers",
            where=f"study {self.study.name}, round {round_index}",
            next_step=f"Begin anew with a smaller step than outer.step_size "
            f"{self.study.outer.step_size:g}.",
        )

    def _too_many_void_rounds(self, count: int, last: RoundEvent) -> FederationError:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in last.refused.items())
        return FederationError(
            f"{count} void rounds in a row; the last admitted {last.admitted} of {last.asked} "
            f"updates ({reasons or 'nothing refused'})",
            expected=f"at least {self.study.least_updates()} admitted updates "
            f"({self._who_needs_them()})",
            where=f"study {self.study.name}, round {last.round_index}",
            next_step="Look at the sites' own logs for the reason, then resume the study.",
        )
