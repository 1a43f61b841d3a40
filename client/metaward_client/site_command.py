"""`metaward site`: what a hospital's engineer runs on the hospital's own machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from metaward_client import (
    budget_command,
    fetch_command,
    health_command,
    init_command,
    ledger_command,
    log_command,
    node_command,
    quote_command,
)
from metaward_client.file_progress import showing_progress

EXAMPLE = "Example:  metaward site scan /data/north/site.yaml"


def register(app: typer.Typer) -> None:
    """Add the group ``site``."""
    site = typer.Typer(
        help="A hospital's own data: what is usable, what is not, and why.", no_args_is_help=True
    )
    site.command("scan", epilog=EXAMPLE)(scan)
    site.command("init", epilog=init_command.EXAMPLE)(init_command.init)
    node_command.register(site)
    site.command("health", epilog=health_command.EXAMPLE)(health_command.health)
    site.command("fetch", epilog=fetch_command.EXAMPLE)(fetch_command.fetch)
    site.command("quote", epilog=quote_command.EXAMPLE)(quote_command.quote)
    budget_command.register(site)
    ledger_command.register(site)
    site.command("log", epilog=log_command.EXAMPLE)(log_command.log)
    app.add_typer(site, name="site")


def scan(
    site: Path,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one per core.")
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode/--no-decode",
            help="Also decode every image, which finds damaged ones and fills the cache.",
        ),
    ] = True,
) -> None:
    """Index DICOM files, join labels, group by patient; say what is usable and why not.

    SITE is a site.yaml, or a folder that holds one, or a folder of DICOM files with labels.csv or
    one sub-folder per label. Exit code 3 where nothing is usable.
    """
    from rich.console import Console

    from metaward_client.scan_report import print_scan, scan_as_json, what_to_do
    from metaward_client.site import load_site

    loaded = load_site(site)
    with showing_progress(Console(stderr=True), "Reading") as on_progress:
        result = loaded.scan(on_progress, workers=workers)
        if decode and result.images:
            result, _ = loaded.decode(result, on_progress=on_progress, workers=workers)
    if as_json:
        typer.echo(json.dumps(scan_as_json(result), indent=2))
    else:
        print_scan(result, Console())
    result.require_usable(where=loaded.where, next_step=what_to_do(result))
