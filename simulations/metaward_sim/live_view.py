"""What a running study looks like: phase, round, sites, loss, time left.

On a terminal it is redrawn in place. Elsewhere (a log file, a pipe) it is a plain line at the
start and the end of a phase and now and then between. With ``quiet`` it is nothing at all.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metaward.progress import RoundEvent
from metaward.report.wording import counted, seconds

PLAIN_LINE_EVERY_S = 10.0
REDRAWS_PER_SECOND = 4.0
BAR_WIDTH = 32
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_ROUNDS = 40
"""Rounds that the loss line shows."""


@dataclass
class Phase:
    """One stretch of work.

    Attributes:
        total: Steps in all; 0 where nobody knows.
        unit: What one step is: ``"round"``.
        began: Reading of the clock.
    """

    name: str
    total: int
    unit: str
    began: float
    done: int = 0


@dataclass
class LiveView:
    """Shows a study while it runs; use it in a ``with`` statement.

    Attributes:
        console: Where to draw.
        study: Name of the study.
        quiet: Draw nothing (for ``--json``); times are still kept.
        loss_of_round: Mean loss at the sites in a round, where a simulation knows it.
        clock: Seconds, monotonic.
        wall_seconds: Name of each phase -> how long it took.
    """

    console: Console
    study: str
    quiet: bool = False
    loss_of_round: Callable[[int], float | None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    wall_seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(init=False)
    _phase: Phase | None = field(init=False, default=None)
    _event: RoundEvent | None = field(init=False, default=None)
    _losses: list[float] = field(init=False, default_factory=list)
    _live: Live | None = field(init=False, default=None)
    _last_line: float = field(init=False, default=0.0)

    def __enter__(self) -> Self:
        self._began = self.clock()
        if self.console.is_terminal and not self.quiet:
            self._live = Live(
                console=self.console,
                get_renderable=self.render,
                refresh_per_second=REDRAWS_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_phase(finished=error is None)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, name: str, *, total: int = 0, unit: str = "step") -> None:
        """End the phase before and begin another; its rounds and losses start anew."""
        self._end_phase(finished=True)
        self._phase = Phase(name, total, unit, self.clock())
        self._event = None
        self._losses = []
        self._last_line = self.clock()
        self._plain(name + (f", {counted(total, unit)}" if total else ""))

    def advance(self, done: int) -> None:
        """Say how many steps of the phase are done."""
        phase = self._phase
        assert phase is not None
        phase.done = done
        if self.clock() - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = self.clock()
            self._plain("  " + "  ".join([self._count(phase), *self._facts()]))

    def on_round(self, event: RoundEvent) -> None:
        """Show a closed round."""
        loss = self.loss_of_round(event.round_index)
        if loss is not None:
            self._losses.append(loss)
        self._event = event
        self.advance(event.round_index + 1)

    def render(self) -> RenderableType:
        """Return the view as it stands."""
        now = self.clock()
        head = Text.assemble(
            (self.study, "bold"), "  ", (f"elapsed {seconds(max(0.0, now - self._began))}", "dim")
        )
        phase = self._phase
        if phase is None:
            return head
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(phase.name, style="cyan"),
            ProgressBar(
                total=phase.total or None,
                completed=phase.done,
                width=BAR_WIDTH,
                pulse=not phase.total,
                animation_time=now,
            ),
            Text(self._count(phase)),
            Text(self._time_left(phase, now), style="dim"),
        )
        lines: list[RenderableType] = [head, line]
        if facts := self._facts():
            lines.append(Text("  " + "   ".join(facts)))
        if len(self._losses) > 1:
            lines.append(Text(f"  {sparkline(self._losses[-SPARK_ROUNDS:])}", style="green"))
        return Group(*lines)

    def _facts(self) -> list[str]:
        event = self._event
        if event is None:
            return []
        refused = sum(event.refused.values())
        facts = [
            f"sites asked {event.asked}",
            f"admitted {event.admitted}",
            f"refused {refused}" + (f" ({', '.join(sorted(event.refused))})" if refused else ""),
        ]
        if event.void:
            facts.append("void round")
        if self._losses:
            facts.append(f"loss {self._losses[-1]:.3f}")
        return facts

    @staticmethod
    def _count(phase: Phase) -> str:
        return f"{phase.unit} {phase.done}/{phase.total}" if phase.total else ""

    @staticmethod
    def _time_left(phase: Phase, now: float) -> str:
        if not phase.total or not phase.done:
            return ""
        left = (now - phase.began) / phase.done * (phase.total - phase.done)
        return f"{seconds(left)} left" if left >= 1.0 else ""

    def _end_phase(self, *, finished: bool) -> None:
        phase = self._phase
        if phase is None:
            return
        took = max(0.0, self.clock() - phase.began)
        self.wall_seconds[phase.name] = self.wall_seconds.get(phase.name, 0.0) + took
        ended = "done" if finished else "stopped"
        self._plain(f"  {ended} after {seconds(took)}")
        if finished and self._live is not None:
            self._live.console.print(
                Text.assemble(("✓ ", "green"), phase.name, (f"  {seconds(took)}", "dim"))
            )
        self._phase = None

    def _plain(self, text: str) -> None:
        if not self.quiet and self._live is None:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def sparkline(values: list[float]) -> str:
    """Return values as a row of bars, the lowest and the highest at the ends of the scale.

    >>> sparkline([3.0, 2.0, 1.0])
    '█▄▁'
    """
    low, high = min(values), max(values)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[int((value - low) * scale)] for value in values)
