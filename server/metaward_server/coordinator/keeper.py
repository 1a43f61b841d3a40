"""Brings the SuperLink to what the coordinator's folder says, again and again.

    python -m metaward_server.coordinator.keeper FOLDER

Hospitals that were enrolled get a node; studies that are wanted are submitted; a study whose
process was killed is submitted again. Whatever is killed, the folder still says what shall be.
"""

import logging
import sys
import time
from pathlib import Path

from metaward.errors import ConfigError, MetawardError
from metaward.services import is_held
from metaward_server.coordinator.home import Coordinator, open_coordinator
from metaward_server.coordinator.hospitals import enrolled, register_nodes
from metaward_server.coordinator.studies import StudyFolder, all_studies, look_after
from metaward_server.coordinator.troubles import require_disk

logger = logging.getLogger(__name__)

PAUSE_S = 3.0
THOROUGH_S = 60.0
"""Pause between two looks at everything. Each question to Flower's command line costs two seconds
of processor time, so in between only that is asked which the folder leaves open."""


def keep_once(coordinator: Coordinator, *, thorough: bool = True) -> None:
    """Do what there is to do now.

    Args:
        coordinator: That is kept.
        thorough: Ask the SuperLink also where the folder says that all is well: every hospital has
            a node, and every running study has a process.

    Raises:
        FederationError: The SuperLink is not there, or said no; or nothing can be written down.
    """
    require_disk(coordinator)  # before a submission that would fail is counted
    try:
        _look_after_hospitals(coordinator, thorough=thorough)
    except ConfigError as error:  # a damaged file of a hospital must not stop the studies
        logger.warning("hospitals: %s", error)
    for folder in all_studies(coordinator):
        if not thorough and is_held(folder.path):
            continue
        try:
            _look_after(coordinator, folder)
        except ConfigError as error:  # a damaged file of one study must not stop the others
            logger.warning("study %s: %s", folder.path.name, error)


def _look_after_hospitals(coordinator: Coordinator, *, thorough: bool) -> None:
    if thorough or not all(one.node for one in enrolled(coordinator)):
        for name in register_nodes(coordinator):
            logger.info("hospital %s has a node", name)


def _look_after(coordinator: Coordinator, folder: StudyFolder) -> None:
    before = folder.state
    if before.state in ("wanted", "running"):
        look_after(coordinator, folder)
        after = folder.state
        if after != before:
            logger.info("study %s: %s %s", folder.path.name, after.state, after.reason)


def main() -> None:
    """Keep a coordinator until the process is ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    coordinator = open_coordinator(Path(sys.argv[1]))
    due = time.monotonic()
    while True:
        thorough = time.monotonic() >= due
        try:
            keep_once(coordinator, thorough=thorough)
            due = time.monotonic() + THOROUGH_S if thorough else due
        except (MetawardError, OSError) as error:
            logger.warning("%s", error)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
