"""Show on a terminal how far a scan or a fetch is."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from metaward_client.dicom.progress import OnProgress


@contextlib.contextmanager
def showing_progress(console: "Console", verb: str) -> "Iterator[OnProgress]":
    """Show a bar per stage on a terminal; nothing elsewhere.

    Args:
        console: Where.
        verb: What is done to the files: ``"Reading"``.
    """
    from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

    bars: dict[str, TaskID] = {}
    with Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(f"{verb} {stage}", total=total)
            progress.update(bars[stage], completed=done, total=total)

        yield on_progress
