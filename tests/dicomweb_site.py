"""A site that fetches over DICOMweb, and a PACS that is healthy but for one kind of answer."""

from collections.abc import Callable
from pathlib import Path

import yaml

from dicom_factory import uid_of
from faulty_pacs import FakeClock, Reply, multipart, rows
from metaward_client.pacs.fetch import FetchReport
from metaward_client.pacs.site_fetch import fetch_site
from metaward_client.site_config import read_site_config

PLANTED = "PLANTED"
STUDY = uid_of("study")
N_IMAGES = 4


def healthy(images: list[bytes], **instead: Reply) -> Callable[[str, dict[str, list[str]]], Reply]:
    """Answer as a PACS should; ``instead``: search, listing, and image (of the second one)."""
    listing = rows(
        *({"0020000E": uid_of("series"), "00080018": uid_of(str(i))} for i in range(N_IMAGES))
    )
    by_path = {
        f"/studies/{STUDY}/series/{uid_of('series')}/instances/{uid_of(str(i))}": multipart(image)
        for i, image in enumerate(images)
    }
    second = list(by_path)[1] if images else ""
    search = rows({"0020000D": STUDY, "00100020": f"{PLANTED}^ID"})

    def answer(path: str, query: dict[str, list[str]]) -> Reply:
        if path == second and "image" in instead:
            return instead["image"]
        if path == "/studies":
            return instead.get("search", search)
        if path == f"/studies/{STUDY}/instances":
            return instead.get("listing", listing)
        return by_path.get(path, Reply(404))

    return answer


def site_at(folder: Path, url: str, **pacs: object) -> Path:
    (folder / "labels.csv").write_text(f"study_instance_uid,label\n{STUDY},a")
    section = {"protocol": "dicomweb", "url": url, "timeout_seconds": 5.0, **pacs}
    data = {"root": "images", "labels": "labels.csv", "key": "study_instance_uid", "pacs": section}
    (folder / "site.yaml").write_text(yaml.safe_dump({"name": "north", "data": data}))
    return folder / "site.yaml"


def fetch(folder: Path, url: str, time: FakeClock | None = None, **pacs: object) -> FetchReport:
    config = read_site_config(site_at(folder, url, **pacs), needs_root=False)
    return fetch_site(config, clock=(time or FakeClock()).clock())
