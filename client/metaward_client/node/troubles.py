"""What keeps a running node from its work, one sentence for each: said where it was started.

Flower's node waits, or ends and is started again, and says why in its own log and its own words, or
not at all: one whose signature is not taken ends as if somebody had pressed Ctrl-C.
"""

from metaward_client.node.coordinator_check import look_at_coordinator
from metaward_client.node.disk_check import look_at_disks
from metaward_client.node.enrolment_check import look_at_enrolment
from metaward_client.node.node_folder import NodeFolder, read_kit
from metaward_client.site_config import SiteConfig


def troubles(node: NodeFolder, config: SiteConfig) -> dict[str, str]:
    """Return what is wrong now, by name."""
    found = [
        *look_at_coordinator(read_kit(node).address, node.ca_certificate),
        *look_at_disks(config, node.path),
        *look_at_enrolment(node.log),
    ]
    return {finding.name: finding.sentence for finding in found if finding.state == "wrong"}
