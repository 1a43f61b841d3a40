"""`metaward site log`: what happened at this site, and who did it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metaward_client.node.site_log import Event

EXAMPLE = "Example:  metaward site log /data/north --last 20"


def log(
    site: Annotated[Path, typer.Argument(help="The site's folder.")],
    last: Annotated[int, typer.Option(min=1, help="Newest events to show.")] = 50,
    study: Annotated[str, typer.Option(help="Only this study: its digest's first letters.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line and nothing else.")
    ] = False,
) -> None:
    """Show who agreed to which study, what each order got, and who changed the ledger.

    Reads while the node is at work. Exit code 4 where the ledger fails verification; what the
    other files say is shown all the same.
    """
    from metaward.errors import PrivacyError
    from metaward_client.init_command import NODE_FOLDER
    from metaward_client.node.node_folder import open_node
    from metaward_client.node.site_log import ledger_events, node_events
    from metaward_client.privacy.policy import NoPrivacy
    from metaward_client.site_config import read_site_config

    # first: a mistyped path is told as one
    policy, damage = read_site_config(site, needs_root=False).privacy, None
    folder = site if site.is_dir() else site.parent
    events = node_events(open_node((folder / NODE_FOLDER).absolute()))
    if policy is not None and not isinstance(policy, NoPrivacy):
        try:
            events = sorted([*events, *ledger_events(policy)], key=lambda event: event.time)
        except PrivacyError as error:
            damage = error
    shown = [event for event in events if event.study.startswith(study)][-last:]
    if as_json:
        for event in shown:
            typer.echo(json.dumps(asdict(event)))
    else:
        _print(shown, "of such a study " if study else "")
    if damage is not None:
        raise damage


def _print(events: "list[Event]", kind: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not events:
        console.print(f"Nothing {kind}has happened here yet.")
        return
    table = Table("time (UTC)", "what", "study", "round", "detail", box=None)
    for event in events:
        time = event.time.removesuffix("+00:00").replace("T", " ")
        round_ = "" if event.round_index is None else str(event.round_index)
        table.add_row(time, event.what, event.study[:12], round_, escape(event.detail))
    console.print(table)
