"""`metaward site init`: from a folder of images to settings, a key and a request."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from metaward.errors import ConfigError

if TYPE_CHECKING:
    from metaward_client.site_config import SiteConfig

NODE_FOLDER = "node"
EXAMPLE = "Example:  metaward site init /data/north --name north --images /pacs-export"

SITE_TEXT = """\
# A hospital's settings. All keys: docs/configuration.md
{name}
{data}
# health_port: 9097               # on loopback; each node of a machine needs its own

# What patients may lose, to all studies together; without it the site answers no study.
# `metaward site quote` says what a budget allows; docs/privacy.md says how to choose.
# privacy:
#   mechanism: dp-sgd
#   target_epsilon: 8.0
#   target_delta: 5.0e-5          # at most 1 / (10 population)
#   population: 2000              # as a round number; not the exact count
#   labels: [pneumonia, none]     # findings that take part
#   ledger: ledger                # beside this file
#   witness: witness              # better on another disk
"""


def init(
    folder: Annotated[Path, typer.Argument(help="New folder, or one that holds a site.yaml.")],
    name: Annotated[
        str, typer.Option(help="The hospital's name in the federation.", prompt="Name")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder with DICOM files; where there is no site.yaml.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Label table (CSV).")] = None,
) -> None:
    """Make a site: settings, a private key, and the request that goes to the coordinator.

    The key is made here and never leaves. Then: edit site.yaml, look at the data with
    `metaward site scan`, send enrolment.yaml to the coordinator.
    """
    from metaward_client.node.node_folder import create_node
    from metaward_client.site_config import SITE_FILE, read_site_config

    site_file = folder / SITE_FILE
    if site_file.exists():
        _require_same(read_site_config(site_file), name, images, labels, site_file)
    else:
        if images is None and sys.stdin.isatty():
            images = Path(typer.prompt("Folder with DICOM files"))
            table = typer.prompt("Label table (CSV; empty: a folder per label)", default="")
            labels = Path(table) if table else None
        _write_site(site_file, name, images, labels)
    node = create_node(folder / NODE_FOLDER, name)
    typer.echo(f"Site:     {site_file}")
    typer.echo(f"Key:      {node.key} (stays here)")
    typer.echo(f"Request:  {node.request} (send it to the coordinator)")


def _require_same(
    config: "SiteConfig", name: str, images: Path | None, labels: Path | None, site_file: Path
) -> None:
    """Check that the options ask for nothing but what the site.yaml that stands says.

    Raises:
        ConfigError: One of them differs.
    """
    if config.name != name:
        raise ConfigError(
            f"the site is called {config.name}",
            expected=f"the name that was given, {name}",
            where=str(site_file),
            next_step=f"--name {config.name}, or change `name` in site.yaml.",
        )
    for option, given, key, stands in (
        ("--images", images, "data.root", config.data.root),
        ("--labels", labels, "data.labels", config.data.labels),
    ):
        if given is not None and given.resolve() != stands:
            raise ConfigError(
                f"site.yaml is there, and its {key} is {stands or 'left out'}",
                expected=f"what {option} says, {given.resolve()}",
                where=str(site_file),
                next_step=f"Change {key} in site.yaml, or leave {option} out.",
            )


def _write_site(path: Path, name: str, images: Path | None, labels: Path | None) -> None:
    """Write a site.yaml that can be read; nothing where it could not."""
    from metaward.config import validate_settings
    from metaward.whole_file import write_atomically
    from metaward_client.site_config import SiteConfig, require_root

    if images is None:
        raise ConfigError(
            "no --images, and no site.yaml",
            expected="the folder with the hospital's DICOM files",
            where=str(path.parent),
            next_step=EXAMPLE.removeprefix("Example:  "),
        )
    data = {"root": str(images.expanduser().absolute())}
    if labels is not None:
        data["labels"] = str(labels.expanduser().absolute())
    content = {"name": name, "data": data}
    where = "--name, --images, --labels"
    config = validate_settings(content, SiteConfig, where=where)
    require_root(config, where="--images", next_step="Correct the path.")
    text = SITE_TEXT.format(name=_yaml({"name": name}), data=_yaml({"data": data}))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _yaml(content: dict[str, object]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf)
