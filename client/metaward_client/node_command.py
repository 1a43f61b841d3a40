"""`metaward site join, check, trial, approve, start`: from a request to a node at work."""

import json
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from metaward.errors import ConfigError
from metaward_client.init_command import NODE_FOLDER

if TYPE_CHECKING:
    from metaward_client.node.node_folder import NodeFolder


def register(site: typer.Typer) -> None:
    """Add the commands to the group ``site``."""
    site.command("join", epilog=EXAMPLES["join"])(join)
    site.command("check", epilog=EXAMPLES["check"])(check)
    site.command("trial", epilog=EXAMPLES["trial"])(trial)
    site.command("approve", epilog=EXAMPLES["approve"])(approve)
    site.command("start", epilog=EXAMPLES["start"])(start)


EXAMPLES = {
    "join": "Example:  metaward site join /data/north kit-north.yaml",
    "check": "Example:  metaward site check /data/north",
    "trial": "Example:  metaward site trial /data/north study.yaml",
    "approve": "Example:  metaward site approve /data/north study.yaml --by 'Dr. A. Officer'",
    "start": "Example:  metaward site start /data/north",
}


def join(
    site: Annotated[Path, typer.Argument(help="The site's folder.")],
    kit: Annotated[Path, typer.Argument(help="The coordinator's answer to the request.")],
    fingerprint: Annotated[
        str, typer.Option(help="As the coordinator said it; left out: it is asked for.")
    ] = "",
) -> None:
    """Take the coordinator's kit: where it is, and whose certificates to trust.

    The fingerprint must be what the coordinator says by telephone: whoever can change the kit on
    its way could otherwise stand between.
    """
    from metaward.config import load_settings
    from metaward.enrolment import Kit, certificate_fingerprint
    from metaward_client.node import node_folder

    node, name = _node_of(site)
    content = load_settings(kit, Kit)
    found = certificate_fingerprint(content.ca_certificate.encode())
    if not fingerprint and sys.stdin.isatty():
        typer.echo(f"Fingerprint in the kit:  {found}")
        typer.confirm("Is this what the coordinator told you?", abort=True)
        fingerprint = found
    if _hex_digits(fingerprint) != _hex_digits(found):
        raise ConfigError(
            f"the kit's fingerprint is {found}",
            expected=fingerprint.strip() or "--fingerprint, as the coordinator said it",
            where=str(kit),
            next_step="Ask the coordinator again; do not use the kit until they are equal.",
        )
    node_folder.join(node, content, name)
    typer.echo(f"{name} joins {content.federation} at {content.address}.")


def _hex_digits(fingerprint: str) -> str:
    """Return a fingerprint without what people put between its digits."""
    return re.sub(r"[\s:-]", "", fingerprint).upper()


def check(
    site: Annotated[Path, typer.Argument(help="The site's folder.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Look at everything that has to be right before the node starts, and say what to do.

    Settings, key, kit, coordinator, certificate, clock, disk, data, budget. Changes nothing; the
    exit code is that of the first thing that is wrong.
    """
    from rich.console import Console
    from rich.markup import escape

    from metaward.terminal import either
    from metaward_client.node.check import check as findings_of
    from metaward_client.node.check import require_all

    folder = site if site.is_dir() else site.parent
    console = Console(highlight=False)
    ok, wrong = either(console, "✓", "+"), either(console, "✗", "-")
    marks = {"ok": f"[green]{ok}[/]", "warn": "[yellow]![/]", "wrong": f"[red]{wrong}[/]"}
    arrow = either(console, "→", ">")
    found = []
    for finding in findings_of(site, (folder / NODE_FOLDER).absolute()):
        found.append(finding)
        if not as_json:
            line = f"{marks[finding.state]} {finding.name:<13}{escape(finding.said)}"
            console.print(line, soft_wrap=True)
            if finding.next_step:
                console.print(f"  {'':<13}{arrow} {escape(finding.next_step)}", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    require_all(found)


def trial(
    site: Annotated[Path, typer.Argument(help="The site's folder.")],
    study: Annotated[Path, typer.Argument(help="The study, as the coordinator sent it.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Do one round here, alone, and print exactly what would leave.

    With the site's own mechanism and a ledger that is thrown away: nothing is charged, nothing
    leaves.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from metaward.study import read_study
    from metaward_client.node.trial import try_round

    done = try_round(site, read_study(study))
    if as_json:
        typer.echo(json.dumps(asdict(done), indent=2))
        return
    columns = [Column(heading, overflow="fold") for heading in ("record", "name", "what")]
    table = Table(*columns, "bytes", title=f"Would leave ({done.mechanism})")
    for field in done.leaves:
        names = (escape(text) for text in (field.record, field.name, field.what))
        table.add_row(*names, f"{field.bytes:,}")
    table.add_section()
    table.add_row("", "", "all", f"{sum(field.bytes for field in done.leaves):,}")
    console = Console(highlight=False)
    console.print(table)
    kept = ", ".join(f"{name} {value}" for name, value in done.stays.items() if name != "study")
    console.print(f"Stays here, in the site's own log: {kept}", soft_wrap=True)


def approve(
    site: Annotated[Path, typer.Argument(help="The site's folder.")],
    study: Annotated[Path, typer.Argument(help="The study, as the coordinator sent it.")],
    by: Annotated[str, typer.Option(help="Who agrees.", prompt="Approved by")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show a study in words, and write down that somebody here agrees to it."""
    from rich.console import Console

    from metaward.study import read_study
    from metaward_client.node import approval
    from metaward_client.node.study_in_words import print_study
    from metaward_client.site_config import read_site_config

    by = approval.plain_name(by)
    node, _ = _node_of(site)
    asked = read_study(study)
    print_study(asked, read_site_config(site), Console())
    path = approval.approval_file(node.approvals, asked)
    if first := approval.approval_of(node.approvals, asked):
        typer.echo(
            f"Approved already, by {first.approved_by} at {first.approved_at}; that stays: {path}"
        )
        return
    if not yes:
        typer.confirm("Take part?", abort=True)
    approval.approve(node.approvals, asked, by, datetime.now(UTC))
    typer.echo(f"Approved: {path}")


def start(site: Annotated[Path, typer.Argument(help="The site's folder.")]) -> None:
    """Take part in approved studies until Ctrl-C or SIGTERM; wait while the coordinator is away."""
    from rich.console import Console

    from metaward.health import require_free
    from metaward.services import Services, only_one
    from metaward.watch import Watch
    from metaward_client.node.node_folder import own_public_key, read_kit, require_own_kit
    from metaward_client.node.processes import services_of
    from metaward_client.node.troubles import troubles
    from metaward_client.site_config import read_policy, read_site_config

    read_policy(site)
    node, name = _node_of(site)
    require_own_kit(read_kit(node), name, own_public_key(node))
    config = read_site_config(site)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with (
        only_one(node.path, "this node"),
        TemporaryDirectory(prefix="metaward-") as sockets,
        Watch(lambda: troubles(node, config), console.print) as watch,
    ):
        require_free(config.health_port, key="health_port", where=str(site))
        wanted = services_of(node, site, Path(sockets), health_port=config.health_port)
        services = Services(wanted, console.print, watch.look_now)
        services.stop_on_signals()
        console.print(f"{name} takes part; logs: {node.log}")
        services.run()


def _node_of(site: Path) -> "tuple[NodeFolder, str]":
    from metaward_client.node.node_folder import open_node
    from metaward_client.site_config import read_site_config

    name = read_site_config(site).name  # first: a mistyped path is told as one
    folder = site if site.is_dir() else site.parent
    return open_node((folder / NODE_FOLDER).absolute()), name
