"""`metaward evaluate`: what the shared model is worth at a hospital that took no part."""

import contextlib
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example:  metaward evaluate runs/demo-20260101-120000 --site /data/north --shots 1,5"
DEFAULT_SHOTS = "1,5,10,20"


def register(app: typer.Typer) -> None:
    """Add the command ``evaluate``."""
    app.command("evaluate", epilog=EXAMPLE)(evaluate)


def evaluate(
    run_or_model: Annotated[
        Path, typer.Argument(help="A run directory, or a folder with a model artefact.")
    ],
    site: Annotated[
        Path, typer.Option(help="site.yaml, or a folder of DICOM files with their labels.")
    ],
    shots: Annotated[
        str, typer.Option(help="Labelled images per finding, separated by commas.")
    ] = DEFAULT_SHOTS,
    n_way: Annotated[int, typer.Option(min=2, help="Findings per episode, at most.")] = 5,
    n_query: Annotated[int, typer.Option(min=1, help="Query images per finding.")] = 8,
    episodes: Annotated[int, typer.Option(min=2, help="Episodes to average over.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episodes.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one per core by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for report.json and report.html.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else.")
    ] = False,
) -> None:
    """Measure a shared model at a hospital that took no part, beside what it would get alone."""
    from rich.console import Console

    from metaward.errors import DataError
    from metaward.evaluation_design import EvaluationPlan
    from metaward.report.html import write_report_html
    from metaward.report.schema import write_report_json
    from metaward.report.terminal import print_report
    from metaward.run_directory import RunDirectory, fresh_folder
    from metaward.workers import WorkerPool
    from metaward_client.new_site import candidates, new_site_report, took_part
    from metaward_client.site import load_site

    plan = EvaluationPlan(parse_shots(shots), n_way, n_query, episodes, seed)
    chosen = candidates(run_or_model)
    loaded = load_site(site)
    if took_part(run_or_model, loaded.name):
        raise DataError(
            f"a site called {loaded.name} took part in this run's training",
            expected="a site whose patients the model has never seen",
            where=str(run_or_model),
            next_step="Name a site that took no part; if only the name is the same, change it "
            "in site.yaml.",
        )
    model = chosen.artefact.card.model
    console = Console(stderr=as_json)
    with contextlib.nullcontext() if out is None else fresh_folder(out) as folder:
        with console.status("Reading DICOM"):
            task = loaded.load_task(
                image_size=model.image_size, channels=model.channels, workers=workers
            )
        with console.status(f"Evaluating {episodes} episodes"), WorkerPool(workers) as pool:
            report = new_site_report(
                chosen,
                task,
                plan,
                pool.map,
                command=shlex.join(["metaward", *sys.argv[1:]]),
                now=datetime.now(UTC),
                synthetic=loaded.config.synthetic,
            )
        if folder is not None:
            written = RunDirectory(folder)
            write_report_json(report, written.report_json)
            write_report_html(report, written.report_html)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    print_report(report, console)
    if folder is not None:
        console.print(f"\nReport: {RunDirectory(folder).report_html}", soft_wrap=True)


def parse_shots(text: str) -> tuple[int, ...]:
    """Return the shot counts of an option such as ``1,5,10``.

    Raises:
        ConfigError: A part is not a whole number from 1.
    """
    from metaward.config_problems import shorten
    from metaward.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if all(re.fullmatch("0*[1-9][0-9]{0,17}", part) for part in parts):
        return tuple(int(part) for part in parts)
    raise ConfigError(
        shorten(text),
        expected="whole numbers from 1, separated by commas: 1,5,10,20",
        where="--shots",
        next_step="Correct the option.",
    )
