"""`metaward site health`: for systemd, container engines and monitoring at a hospital."""

from pathlib import Path
from typing import Annotated

import typer

from metaward.health import Wait, ask_health, ask_until_healthy, require_healthy, show_answers

EXAMPLE = "Example:  metaward site health /data/north"


def health(
    site: Annotated[Path, typer.Argument(help="The site's folder.")],
    wait: Wait = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Ask whether the SuperNode of `metaward site start` serves; exit code 5 if not.

    A node that waits for its coordinator is healthy: `metaward site check` says whether the
    coordinator can be reached.
    """
    from metaward_client.site_config import read_site_config

    config = read_site_config(site, needs_root=False)
    answers = ask_until_healthy(lambda: [ask_health("SuperNode", config.health_port)], wait_s=wait)
    show_answers(answers, as_json=as_json)
    require_healthy(
        answers, where=config.name, next_step="metaward site start, or a look into node/log/."
    )
