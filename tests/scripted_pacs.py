"""A PACS over DIMSE that answers what a test has written down, and a site that fetches from it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from dicom_factory import uid_of, write_dicom
from faulty_pacs import FakeClock
from metaward_client.pacs.dimse_connection import FIND, GET
from metaward_client.pacs.fetch import FetchReport
from metaward_client.pacs.site_fetch import fetch_site
from metaward_client.site_config import read_site_config

PLANTED = "PLANTED"
STUDY = uid_of("study")


@dataclass
class ScriptedPacs:
    """Answers C-FIND with `found` and C-GET with `got`.

    Attributes:
        found: Level -> (status, identifier) of each answer.
        got: What C-GET gives, as pynetdicom wants it from whoever serves: numbers, then statuses
            with data sets.
        aborts: Whether C-GET ends with the end of the connection.
        spoils: Does something to the connection before C-GET gives an image.
        search: Answers C-FIND instead of `found`; takes a level and a Study Instance UID.
    """

    port: int
    found: dict[str, list[tuple[int, Dataset | None]]]
    got: list[Any]
    aborts: bool = False
    spoils: Callable[[evt.Event], None] | None = None
    search: Callable[[str, str], list[tuple[int, Dataset | None]]] | None = None
    n_connections: int = 0
    gets: list[str] = field(default_factory=list)
    server: Any = None  # of pynetdicom, for what it offers


def row(**keys: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


@contextmanager
def running_scripted_pacs(folder: Path) -> Iterator[ScriptedPacs]:
    """Run one that has one image; ``folder`` gets its file."""
    image = dcmread(write_dicom(path=folder / "a", study="study"))
    below = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": uid_of("series")}
    kind = {"SOPInstanceUID": uid_of("a"), "SOPClassUID": MRImageStorage}
    scripted = ScriptedPacs(
        0,
        {
            "STUDY": [(0xFF00, row(StudyInstanceUID=STUDY, PatientID=PLANTED))],
            "SERIES": [(0xFF00, row(**below, Modality="MR"))],
            "IMAGE": [(0xFF00, row(**below, **kind))],
        },
        [1, (0xFF00, image)],
    )

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level, study = event.identifier.QueryRetrieveLevel, event.identifier.StudyInstanceUID
        yield from scripted.search(level, study) if scripted.search else scripted.found[level]

    def get(event: evt.Event) -> Iterator[Any]:
        scripted.gets.append(str(event.identifier.SOPInstanceUID))
        if scripted.aborts:
            event.assoc.dul.socket.close()
            return
        if scripted.spoils:
            scripted.spoils(event)
        yield from scripted.got

    def connected(_: evt.Event) -> None:
        scripted.n_connections += 1

    entity = AE(ae_title="SCRIPTED")
    entity.add_supported_context(MRImageStorage, scp_role=True, scu_role=False)
    entity.add_supported_context(FIND)
    entity.add_supported_context(GET)
    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get), (evt.EVT_ACCEPTED, connected)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    scripted.server = server
    scripted.port = server.socket.getsockname()[1]
    try:
        yield scripted
    finally:
        server.shutdown()


def site_at(folder: Path, port: int, **pacs: object) -> Path:
    (folder / "labels.csv").write_text(f"study_instance_uid,label\n{STUDY},a")
    section = {"protocol": "dimse", "host": "127.0.0.1", "port": port, "timeout_seconds": 2.0}
    section |= {"called_ae_title": "SCRIPTED", "requests_per_second": 1000.0, **pacs}
    data = {"root": "images", "labels": "labels.csv", "key": "study_instance_uid", "pacs": section}
    (folder / "site.yaml").write_text(yaml.safe_dump({"name": "north", "data": data}))
    return folder / "site.yaml"


def fetch(folder: Path, port: int, time: FakeClock | None = None, **pacs: object) -> FetchReport:
    config = read_site_config(site_at(folder, port, **pacs), needs_root=False)
    return fetch_site(config, clock=(time or FakeClock()).clock())
