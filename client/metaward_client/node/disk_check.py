"""Is there room on the disks that a node writes to, and may it write there?"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from metaward.disk import disk_trouble, existing_part
from metaward_client.node.finding import Finding
from metaward_client.privacy.policy import NoPrivacy
from metaward_client.site_config import SiteConfig


def look_at_disks(config: SiteConfig, node: Path) -> Iterator[Finding]:
    """Give a line for each place that is written to."""
    for place, path in _places(config, node).items():
        yield _disk(place, path)


def _places(config: SiteConfig, node: Path) -> dict[str, Path]:
    places: dict[str, Path] = {"node": node}
    if config.cache is not None:
        places["cache"] = config.cache
    if config.privacy is not None and not isinstance(config.privacy, NoPrivacy):
        places["ledger"] = config.privacy.ledger
        if config.privacy.witness is not None:
            places["witness"] = config.privacy.witness
    return places


def _disk(place: str, path: Path) -> Finding:
    name = f"{place} disk"
    if trouble := disk_trouble(path):
        return Finding(name, "wrong", trouble.said, trouble.next_step)
    free = shutil.disk_usage(existing_part(path)).free
    return Finding(name, "ok", f"{free / 2**30:.0f} GiB free")
