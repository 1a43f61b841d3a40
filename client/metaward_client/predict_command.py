"""`metaward predict`: what an adapted model says of images that nobody has labelled."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaward_client.file_progress import showing_progress

if TYPE_CHECKING:
    from rich.console import Console

    from metaward_client.prediction import Predictions

EXAMPLE = "Example:  metaward predict adapted-north /data/new --out predictions.csv"
ROWS_SHOWN = 20
UNDECIDED = "(undecided)"
"""Where several findings have the highest score."""


def register(app: typer.Typer) -> None:
    """Add the command ``predict``."""
    app.command("predict", epilog=EXAMPLE)(predict)


def predict(
    adapted: Annotated[Path, typer.Argument(help="The folder that `metaward adapt` wrote.")],
    inputs: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option(help="New CSV file: a row with all scores for each image.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read; one per core by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Name the finding on each image, among those that the model was adapted to.

    An image of anything else is given one of them too. Scores rank findings;
    they are no probabilities. For research, and no medical device. Exit code 3
    where no image is usable.
    """
    from rich.console import Console

    from metaward.adapted_model import load_adapted
    from metaward.whole_file import write_new
    from metaward_client import prediction

    model = load_adapted(adapted)
    if out is not None:
        _require_new(out)
    found = prediction.files_of(inputs)
    with showing_progress(Console(stderr=True), "Reading") as on_progress:
        said = prediction.predict_files(model, found, on_progress=on_progress, workers=workers)
    if out is not None and said.named:
        write_new(out, prediction.as_csv(said))
    if as_json:
        typer.echo(json.dumps(prediction.as_json(said), indent=2))
    else:
        _print(said, out, Console())
    _require_some(said, inputs)


def _require_new(out: Path) -> None:
    """Check, before hours of reading, that the table can be written.

    Raises:
        ConfigError: Something stands there, or the folder is missing or takes no file.
    """
    from metaward.disk import require_writable
    from metaward.errors import ConfigError

    if out.exists() or not out.absolute().parent.is_dir():
        raise ConfigError(
            "something stands there" if out.exists() else "there is no folder for the file",
            expected="a new file, in a folder that is there",
            where=str(out),
            next_step="Choose another name with --out.",
        )
    require_writable(out.absolute().parent, what="the table")


def _require_some(said: "Predictions", inputs: list[Path]) -> None:
    from metaward.errors import DataError

    if not said.named:
        reasons = ", ".join(f"{n} {reason.value}" for reason, n in sorted(said.refused.items()))
        raise DataError(
            f"no usable image among {sum(said.refused.values())} files"
            + (f" ({reasons})" if reasons else ""),
            expected="DICOM images",
            where=", ".join(map(str, inputs[:3])) + (", …" if len(inputs) > 3 else ""),
            next_step="Do what is said of each reason, or name other files.",
        )


def _print(said: "Predictions", out: Path | None, console: "Console") -> None:
    from collections import Counter

    from rich.markup import escape
    from rich.table import Column, Table

    from metaward.report.wording import counted
    from metaward.terminal import printable
    from metaward_client.scan_report import refusal_table

    if out is None and said.named:
        table = Table(Column("image", overflow="fold"), Column("finding", overflow="fold"))
        table.add_column("score", justify="right")
        for row in said.named[:ROWS_SHOWN]:
            cells = (printable(row.path), said.finding(row) or UNDECIDED)
            table.add_row(*map(escape, cells), f"{row.scores.max():.2f}")
        console.print(table)
        if len(said.named) > ROWS_SHOWN:
            more = counted(len(said.named) - ROWS_SHOWN, "more image")
            console.print(f"and {more}: take --out or --json")
    counts = Counter(said.finding(row) for row in said.named)
    if counts:
        parts = [f"{label or UNDECIDED} {n:,}" for label, n in counts.most_common()]
        console.print(
            f"{counted(len(said.named), 'image')}: {', '.join(parts)}", markup=False, soft_wrap=True
        )
    if said.refused:
        console.print(refusal_table(said.refused))
    if out is not None and said.named:
        console.print(f"Written: {out}", markup=False, soft_wrap=True)
