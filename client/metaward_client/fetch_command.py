"""`metaward site fetch`: bring a site's images from its PACS into its folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from metaward_client.file_progress import showing_progress

if TYPE_CHECKING:
    from rich.console import Console

    from metaward_client.pacs.fetch import FetchReport
    from metaward_client.site_config import SiteConfig

EXAMPLE = "Example:  metaward site fetch /data/north/site.yaml"


def fetch(
    site: Annotated[Path, typer.Argument(help="A site.yaml, or a folder that holds one.")] = Path(
        "site.yaml"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Fetch the images that the site wants from its PACS; change nothing there.

    What is in the folder already is not fetched again, so an interrupted fetch goes on where it
    stopped, and a nightly one brings what is new. Exit code 3 where the PACS stays away, or has
    nothing that is wanted.
    """
    from rich.console import Console

    from metaward_client.pacs.site_fetch import fetch_site
    from metaward_client.site_config import read_site_config

    config = read_site_config(site, needs_root=False)
    with showing_progress(Console(stderr=True), "Fetching") as on_progress:
        report = fetch_site(config, on_progress=on_progress)
    if as_json:
        typer.echo(json.dumps(report_as_json(config, report), indent=2))
    else:
        _print_report(config, report, Console())
    report.require_some()


def report_as_json(config: "SiteConfig", report: "FetchReport") -> dict[str, Any]:
    """Return a report as plain values."""
    from metaward_client.pacs.failures import EXPLANATIONS

    assert config.data.pacs is not None
    return {
        "site": config.name,
        "protocol": config.data.pacs.protocol,
        "encrypted": _is_encrypted(config),
        "studies": report.n_studies,
        "wanted": report.n_wanted,
        "already_there": report.n_there,
        "fetched": report.n_fetched,
        "bytes": report.n_bytes,
        "requests": report.n_requests,
        "not_fetched": [
            {
                "reason": failure.value,
                "of": of,
                "number": number,
                "what": EXPLANATIONS[failure].what,
                "next_step": EXPLANATIONS[failure].next_step,
            }
            for of, counts in (("images", report.failed), ("studies", report.unlisted))
            for failure, number in counts.most_common()
        ],
        "keys_without_image": report.n_keys_without_instance,
        "there_but_not_wanted": report.n_not_wanted,
    }


def _is_encrypted(config: "SiteConfig") -> bool:
    match config.data.pacs:
        case None:
            return False
        case pacs if pacs.protocol == "dimse":
            return pacs.tls
        case pacs:
            return urlsplit(pacs.url).scheme == "https"  # in whatever case it is written


def _print_report(config: "SiteConfig", report: "FetchReport", console: "Console") -> None:
    from rich.table import Column, Table

    from metaward_client.pacs.failures import EXPLANATIONS

    console.print(
        f"[bold]Site {config.name}[/]  {report.n_wanted} images of {report.n_studies} studies are "
        f"wanted: {report.n_there} were there, {report.n_fetched} fetched now "
        f"({report.n_bytes / 1e6:.1f} MB, {report.n_requests} requests)",
        soft_wrap=True,
    )
    if report.failed or report.unlisted:
        table = Table(Column("not fetched, because", no_wrap=True))  # to be looked up as it stands
        for heading in ("images", "studies"):
            table.add_column(heading, justify="right")
        table.add_column("what it means")
        table.add_column("next step")
        for failure, _ in (report.failed + report.unlisted).most_common():
            numbers = (str(counts[failure] or "") for counts in (report.failed, report.unlisted))
            explanation = EXPLANATIONS[failure]
            table.add_row(failure.value, *numbers, explanation.what, explanation.next_step)
        console.print(table)
    if report.n_keys_without_instance:
        console.print(
            f"Of {report.n_keys_without_instance} keys of the label table the PACS has nothing "
            "that the selection allows.",
            soft_wrap=True,
        )
    if report.n_not_wanted:
        console.print(
            f"{report.n_not_wanted} images of earlier fetches are not wanted any more, or not in "
            "the PACS any more. They are kept; delete them if they may not be used.",
            soft_wrap=True,
        )
    if not _is_encrypted(config):
        console.print("[yellow]The connection is not encrypted[/]: see docs/pacs.md.")
    console.print("Next:  metaward site scan, which says what of the folder is usable.")
