"""The report's course of a training: losses and lengths of steps, round by round."""

from collections.abc import Sequence

from metaward.report.schema import TrainingRound
from metaward.report.svg import LINE, PANEL, SERIES, drawing, to_svg


def training_course(rounds: Sequence[TrainingRound]) -> list[str]:
    """Return SVGs of the loss at the hospitals and of the delta's norm, round by round."""
    svgs = []
    for name, title, series in (
        ("loss", "Mean loss at the hospitals", [(r.round_index, r.loss) for r in rounds]),
        (
            "delta",
            "Length of the step (L2 norm of the delta)",
            [(r.round_index, None if r.void else r.delta_norm) for r in rounds],
        ),
    ):
        known = [(index + 1, value) for index, value in series if value is not None]
        if len(known) > 1:
            svgs.append(_course(title, known, f"course-{name}"))
    return svgs


def _course(title: str, known: Sequence[tuple[int, float]], name: str) -> str:
    with drawing(*PANEL) as (figure, axes):
        figure.subplots_adjust(left=0.13, right=0.96, bottom=0.17, top=0.88)
        axes.set_title(title, pad=9, x=-0.13)
        axes.plot([x for x, _ in known], [y for _, y in known], color=SERIES[0])
        axes.set_xlabel("round")
        axes.set_ylim(bottom=0.0)
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.tick_params(length=0)
        (first, start), (last, end) = known[0], known[-1]
        alt = f"{title}: {start:.3g} in round {first}, {end:.3g} in round {last}."
        return to_svg(figure, name=name, alt=alt)
