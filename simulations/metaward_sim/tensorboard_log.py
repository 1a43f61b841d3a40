"""TensorBoard event files of a study: the optional extra ``metaward[tensorboard]``."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from metaward.errors import ConfigError
from metaward.progress import RoundEvent
from metaward.report.schema import Report

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorBoardLog:
    """Writes scalars round by round, and the evaluation; use it in a ``with`` statement.

    Args:
        folder: Gets the event files; made where it is missing.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = _writer(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def on_round(
        self, event: RoundEvent, *, run: str = "training", loss: float | None = None
    ) -> None:
        """Write a closed round; steps count rounds from 1.

        Args:
            event: The round.
            run: Groups the curves: the study's own training, or a baseline's.
            loss: Mean loss at the sites, where a simulation knows it.
        """
        scalars = {
            "sites admitted": float(event.admitted),
            "sites refused": float(sum(event.refused.values())),
            "seconds": event.seconds,
            "overhead seconds": event.overhead_s,
        }
        if not event.void:
            scalars["delta norm"] = event.delta_norm
        if loss is not None:
            scalars["loss"] = loss
        for name, value in scalars.items():
            self._writer.add_scalar(f"{run}/{name}", value, event.round_index + 1)
        self._writer.flush()

    def on_report(self, report: Report) -> None:
        """Write every mean of the evaluation; the step is the number of images per finding."""
        for row in report.evaluation:
            if row.mean is not None:
                name = f"{row.metric} against shots/{row.site}/{row.method}"
                self._writer.add_scalar(name, row.mean, row.shots)
        for pooled in report.pooled:
            if pooled.mean is not None:
                name = f"{pooled.metric} against shots/mean over hospitals/{pooled.method}"
                self._writer.add_scalar(name, pooled.mean, pooled.shots)
        self._writer.flush()


def _writer(folder: Path) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise ConfigError(
            "TensorBoard is not installed",
            expected="the extra 'tensorboard'",
            where="--tensorboard",
            next_step="Run `pip install 'metaward[tensorboard]'`, or leave the option out.",
        ) from None
    return SummaryWriter(str(folder))
